"""Writers that add attachments, refer to them and remove some, until they are killed. Started by `test_blob_crash.py`."""

from __future__ import annotations

import os
import random
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from storing import ATTACHMENTS, attachment, files_at, open_blobs, refer

from threadledger.domain.errors import BlobMissing, StoreUnavailable
from threadledger.domain.ids import now


def work(*, url: str, writer: str, commits: int | None, seed: int, place: str, folder: str) -> None:
    """Add and refer; now and then, remove attachments that no event refers to, however young they are."""
    rng = random.Random(f"{seed} {writer}")
    with closing(open_blobs(url, files_at(place, Path(folder)))) as ledger:
        index = 0
        while commits is None or index < commits:
            index += 1
            if rng.random() < 0.3:
                later = now() + timedelta(days=1)
                for each in ledger.journal.blobs.prunable(later):
                    if ledger.journal.blobs.remove(each.address, later):
                        os.write(1, b"removed\n")
            try:
                address = ledger.journal.blobs.add([attachment(rng.randrange(ATTACHMENTS))]).address
                if rng.random() < 0.6:
                    refer(ledger, f"{writer} {index}", address)
                    os.write(1, f"referred {writer} {index} {address}\n".encode())
            except BlobMissing:  # it was removed between the two: nothing refers to it
                os.write(1, b"refused\n")
            except StoreUnavailable as error:  # it was removed in each attempt
                assert "removed each time" in str(error), error


if __name__ == "__main__":
    from writing import serve

    serve(work)
