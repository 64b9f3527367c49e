"""The SQL of every write of a live store, with the placeholders of a driver."""

from tokentape.store.attachments import TABLES
from tokentape.store.live import attachments as attachment_rows
from tokentape.store.live.packing import COLUMNS
from tokentape.store.live.reader import SUMMARY_COLUMNS


class Statements:
    """The SQL of every write, with the driver's placeholders."""

    def __init__(self, placeholder: str) -> None:
        def placeholders(count: int) -> str:
            return ", ".join([placeholder] * count)

        columns = ", ".join(SUMMARY_COLUMNS)
        values = placeholders(len(SUMMARY_COLUMNS))
        self.insert_run = f"INSERT INTO runs ({columns}) VALUES ({values}) RETURNING run_key"
        assigned = ", ".join(f"{name} = {placeholder}" for name in SUMMARY_COLUMNS)
        self.update_run = f"UPDATE runs SET {assigned} WHERE run_key = {placeholder}"
        self.select_tombstone = f"SELECT 1 FROM tombstones WHERE run_id = {placeholder}"
        self.insert_event = (
            "INSERT INTO events (event_key, after_us, turn, kind, version, body, seal) "
            f"VALUES ({placeholders(7)})"
        )
        self.insert_token = (
            f"INSERT INTO tokens (event_key, after_us, {', '.join(COLUMNS)}) "
            f"VALUES ({placeholders(2 + len(COLUMNS))})"
        )
        self.insert_blob = (
            f"INSERT INTO blobs (sha256, payload) VALUES ({placeholders(2)}) ON CONFLICT DO NOTHING"
        )
        self.insert_attachment = {
            table: attachment_rows.insert_statement(table, placeholder) for table in TABLES.values()
        }
