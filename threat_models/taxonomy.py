"""The words that a claim's tags may use: STRIDE, LINDDUN and MITRE ATLAS.

Sources: Shostack, Threat Modeling (2014), chapter 3; linddun.org (2023 catalogue of threat types);
atlas.mitre.org, the techniques that touch training data and released models.  A protocol attack has no
ATLAS technique: the tuple stays empty rather than stretched.

>>> check("stride", ("Tampering",))
>>> check("stride", ("Sabotage",))
Traceback (most recent call last):
    ...
secure_fed_diffusion.errors.ConfigError: stride: expected one of Denial of service, ...
"""

from __future__ import annotations

from secure_fed_diffusion.errors import ConfigError

STRIDE = (
    "Denial of service",
    "Elevation of privilege",
    "Information disclosure",
    "Repudiation",
    "Spoofing",
    "Tampering",
)
LINDDUN = (
    "Data disclosure",
    "Detecting",
    "Identifying",
    "Linking",
    "Non-compliance",
    "Non-repudiation",
    "Unawareness and unintervenability",
)
ATLAS = {
    "AML.T0018": "Manipulate AI Model",
    "AML.T0018.000": "Poison AI Model",
    "AML.T0020": "Poison Training Data",
    "AML.T0024": "Exfiltration via AI Inference API",
    "AML.T0024.000": "Infer Training Data Membership",
    "AML.T0024.001": "Invert AI Model",
    "AML.T0025": "Exfiltration via Cyber Means",
    "AML.T0029": "Denial of AI Service",
    "AML.T0031": "Erode AI Model Integrity",
    "AML.T0035": "AI Artifact Collection",
    "AML.T0044": "Full AI Model Access",
}
ALLOWED = {"stride": STRIDE, "linddun": LINDDUN, "atlas": tuple(ATLAS)}


def check(taxonomy: str, values: tuple[str, ...]) -> None:
    """Refuse a tag that its taxonomy does not have."""
    for value in values:
        if value not in ALLOWED[taxonomy]:
            raise ConfigError(f"expected one of {', '.join(ALLOWED[taxonomy])}; got {value!r}", key=taxonomy)
