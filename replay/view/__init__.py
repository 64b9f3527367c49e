"""The view of a recording: its document, and the page that shows it."""
