"""Rendering of reports, differences and turns as text, HTML and JUnit XML."""
