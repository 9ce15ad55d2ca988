"""The pilot that the flows' tests make once serves the commands' tests too."""

from tests.flows.conftest import linear_pilot  # noqa: F401
