"""A page to look at what runs found: `python -m utils.report RUN [RUN ...]`, or --report of an evaluation script."""

from .charts import check_libraries
from .page import write_report

__all__ = ["check_libraries", "write_report"]
