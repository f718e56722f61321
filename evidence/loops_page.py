KEPT = "loops.json"
def write(folder): pass
