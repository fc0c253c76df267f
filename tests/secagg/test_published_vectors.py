"""Published vectors for every primitive that the module wraps."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from secure_fed_diffusion.errors import FrameError
from secure_fed_diffusion.secagg import keys, masks
from secure_fed_diffusion.secagg.shamir import PRIME

P25519 = 2**255 - 19
LOW_ORDER = [
    0,
    1,
    P25519 - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]


def test_x25519_agrees_with_rfc_7748_section_6_1() -> None:
    alice = keys.PrivateKey(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = keys.PrivateKey(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert alice.exchange(bob.public).hex() == bob.exchange(alice.public).hex() == shared


def test_hkdf_agrees_with_rfc_5869_case_1() -> None:
    okm = keys.hkdf(
        bytes([0x0B]) * 22,
        salt=bytes(range(13)),
        info=bytes(range(0xF0, 0xFA)),
        n_bytes=42,
    )
    assert okm.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_hkdf_agrees_with_rfc_5869_case_3() -> None:
    okm = keys.hkdf(bytes([0x0B]) * 22, salt=b"", info=b"", n_bytes=42)
    assert okm.hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_the_block_cipher_agrees_with_sp_800_38a_f_5_5() -> None:
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    cipher = bytes.fromhex("601ec313775789a5b7a7f504bbf3d228")
    encryptor = Cipher(AES256(key), ECB()).encryptor()
    assert bytes(a ^ b for a, b in zip(encryptor.update(counter), plain, strict=True)) == cipher


@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<u4", "<u8"])
def test_a_mask_is_the_cipher_of_the_counters_from_zero(dtype: str) -> None:
    key = bytes(range(32))
    n_bytes = masks.CHUNK_BYTES + 160  # across a chunk's end
    vector = np.zeros(n_bytes // np.dtype(dtype).itemsize, dtype=dtype)
    masks.apply(vector, plus=[key])
    counters = b"".join(block.to_bytes(16, "big") for block in range(n_bytes // 16))
    assert vector.tobytes() == Cipher(AES256(key), ECB()).encryptor().update(counters)


@pytest.mark.parametrize("u", LOW_ORDER)
def test_a_point_of_low_order_is_refused(u: int) -> None:
    point = u.to_bytes(32, "little")
    with pytest.raises(FrameError, match="low order"):
        keys.PrivateKey(bytes(32)).exchange(point)


@pytest.mark.parametrize("u", [P25519, P25519 + 1, 2**255 + 9, 2**256 - 1])
def test_a_point_with_a_second_encoding_is_refused(u: int) -> None:
    with pytest.raises(FrameError, match="canonical"):
        keys.check_public(u.to_bytes(32, "little"))


def test_the_low_order_points_are_those_that_the_primitive_maps_to_zero() -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    for u in LOW_ORDER:
        public = X25519PublicKey.from_public_bytes(u.to_bytes(32, "little"))
        with pytest.raises(ValueError, match=r"."):
            X25519PrivateKey.from_private_bytes(bytes(range(32))).exchange(public)


def test_the_sharing_field_is_prime() -> None:
    """Miller-Rabin with 40 fixed bases."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        x = pow(base, odd, PRIME)
        if x in (1, PRIME - 1):
            continue
        assert any(pow(x, 2**i, PRIME) == PRIME - 1 for i in range(1, twos))
