"""What makes data worth training on: pure functions over Groups, without torch. Stage `curate` puts them in order."""
