"""report.html"""

from tiercel.report.result import PilotResult


def render_page(result: PilotResult) -> str:
    """X."""
    return result.verdict
