"""Reports as terminal text, HTML, JUnit XML."""
