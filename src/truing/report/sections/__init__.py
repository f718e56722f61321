"""The sections of a run's page: a module reads what a section shows, and a template of the same name draws it.

For findings of another kind of stage, write the two and put the module's SECTION into SECTIONS.
"""

from typing import Any

from truing.report.sections import audit, curation, evolution, measured, ranking, reward, selection
from truing.report.sections.section import Section

SECTIONS: tuple[Section[Any], ...] = (
    curation.SECTION,
    audit.SECTION,
    evolution.SECTION,
    ranking.SECTION,
    selection.SECTION,
    reward.SECTION,
    measured.SECTION,
)
"""Those on what stages found, in the order of the page; a run without such a stage does not have them."""
