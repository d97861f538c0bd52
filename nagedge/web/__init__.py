"""A bundle in the browser: one static page on which it predicts and keeps learning."""

from __future__ import annotations

from nagedge.web.page import write_page

__all__ = ["write_page"]
