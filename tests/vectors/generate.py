"""Regenerate every vector file, bit for bit, from fixed randomness.

python -m tests.vectors.generate          write the files
python -m tests.vectors.generate --check  say which would change; exit status 1 if any
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from secure_fed_diffusion.secagg import codec, session

from . import binding_cases, frame_cases, key_cases, ring_cases, sharing_cases, transcripts
from .forms import Json

FOLDER = Path(__file__).parent


def generate() -> dict[str, Json]:
    """Return every file by its name."""
    played = transcripts.generate()
    by_file = {
        "keys": key_cases.key_cases(),
        "signing": key_cases.signing_cases(),
        "shamir": sharing_cases.shamir_cases(),
        "seal": sharing_cases.seal_cases(),
        "encoding": ring_cases.encoding_cases(),
        "fixed_point": ring_cases.fixed_point_cases(),
        "masks": ring_cases.mask_cases(),
        "session": binding_cases.session_cases(),
        "choice": binding_cases.choice_cases(),
        "tag": binding_cases.tag_cases(),
        "codec": frame_cases.codec_cases(),
        "messages": frame_cases.message_cases(played["transcripts"]),
    }
    common = {"suite": session.SUITE.decode(), "frame_version": codec.VERSION}
    files = {name: {**common, "cases": cases} for name, cases in by_file.items()}
    return {**files, "transcripts": {**common, **played}}


def written(content: Json) -> str:
    """Return the text of a file."""
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def main() -> int:
    """Write the files, or compare them."""
    check, changed = "--check" in sys.argv[1:], []
    for name, content in generate().items():
        path, text = FOLDER / f"{name}.json", written(content)
        if not path.exists() or path.read_text() != text:
            changed.append(path.name)
            if not check:
                path.write_text(text)
    print("changed:", ", ".join(changed) or "nothing")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
