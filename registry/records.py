"""The registry's file: every record, rewritten whole at each change.

One JSON file rather than a database: a network of this size has a handful of records, changes them
at start-up, and a reader can open the file. A change is on disk (temporary file, fsync, rename,
fsync of the folder) before it is answered; a crash leaves the old file or the new one.
"""

import os
from pathlib import Path

import msgspec

from gateway.errors import StoreError
from registry.directory import Record

FILE_NAME = "participants.json"


class RecordFile:
    """Records by subscriber id and key id, in the order they were first filed."""

    def __init__(self, data_dir: Path) -> None:
        """Open or create the folder and read what is there.

        Raises:
            StoreError: The folder cannot be written or the file cannot be read.
        """
        self._path = data_dir / FILE_NAME
        self.records: dict[tuple[str, str], Record] = {}
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                found = msgspec.json.decode(self._path.read_bytes(), type=list[Record])
                self.records = {(each.subscriber_id, each.key_id): each for each in found}
        except OSError as exc:
            raise StoreError(f"{self._path}: {exc.strerror}") from exc
        except msgspec.DecodeError as exc:
            raise StoreError(f"{self._path} is not a list of records: {exc}") from exc

    def put(self, record: Record) -> None:
        """File one record durably; nothing changes where that fails.

        Raises:
            StoreError: The file cannot be written.
        """
        changed = {**self.records, (record.subscriber_id, record.key_id): record}
        text = msgspec.json.format(msgspec.json.encode(list(changed.values())), indent=1)
        temporary = self._path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            raise StoreError(f"{self._path}: {exc.strerror}") from exc
        self.records = changed
