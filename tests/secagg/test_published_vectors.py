"""Published vectors for every primitive that the module wraps.

X25519: RFC 7748.  Ed25519: RFC 8032.  HKDF: RFC 5869.  AES-256 in counter mode: NIST SP 800-38A; in
GCM: McGrew and Viega.  Merkle trees: RFC 6962 and the reference tree of Certificate Transparency.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB

from secure_fed_diffusion import entropy
from secure_fed_diffusion.errors import ConfigError, FrameError
from secure_fed_diffusion.secagg import choice, keys, masks, seal, signing
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


def test_hkdf_agrees_with_rfc_5869_case_2() -> None:
    okm = keys.hkdf(
        bytes(range(80)), salt=bytes(range(0x60, 0xB0)), info=bytes(range(0xB0, 0x100)), n_bytes=82
    )
    assert okm.hex() == (
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
    )


def test_x25519_agrees_with_rfc_7748_section_5_2() -> None:
    scalar = "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"
    u = "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"
    shared = keys.PrivateKey(bytes.fromhex(scalar)).exchange(bytes.fromhex(u))
    assert shared.hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


def test_the_point_of_rfc_7748_section_5_2_with_its_top_bit_set_is_refused() -> None:
    """The RFC masks that bit; a key that can be written in two ways is none of ours."""
    u = "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493"
    with pytest.raises(FrameError, match="canonical"):
        keys.check_public(bytes.fromhex(u))


def test_x25519_agrees_with_rfc_7748_section_5_2_after_a_thousand_iterations() -> None:
    k = u = b"\x09" + bytes(31)
    found = {}
    for count in range(1, 1001):
        k, u = keys.PrivateKey(k).exchange(u), k
        found[count] = k.hex()
    assert found[1] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert found[1000] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


RFC_8032 = {
    "1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    "2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
    "SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd"
        "454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
        "3dca179c138ac17ad9bef1177331a704",
    ),
}


@pytest.mark.parametrize("test", RFC_8032)
def test_ed25519_agrees_with_rfc_8032_section_7_1(test: str) -> None:
    secret, public, message, signature = (bytes.fromhex(field) for field in RFC_8032[test])
    key = signing.SigningKey(secret)
    assert key.public == public
    assert key.secret == secret
    assert key.sign(message) == signature
    roster = signing.Roster({5: public})
    assert roster.verify(5, message, signature)
    assert not roster.verify(5, message + b"0", signature)
    assert not roster.verify(6, message, signature)
    for bit in range(0, 8 * len(signature), 37):
        spoilt = bytearray(signature)
        spoilt[bit // 8] ^= 1 << bit % 8
        assert not roster.verify(5, message, bytes(spoilt))


def test_a_signing_key_of_another_length_is_refused() -> None:
    for n_bytes in (0, 31, 33, 64):
        with pytest.raises(ConfigError, match="32 bytes"):
            signing.SigningKey(bytes(n_bytes))


def test_the_cipher_of_the_masks_agrees_with_sp_800_38a_f_5_5() -> None:
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    assert Cipher(AES256(key), CTR(counter)).encryptor().update(plain) == cipher
    blocks = b"".join((int.from_bytes(counter, "big") + i).to_bytes(16, "big") for i in range(4))
    stream = Cipher(AES256(key), ECB()).encryptor().update(blocks)
    assert bytes(a ^ b for a, b in zip(stream, plain, strict=True)) == cipher


def test_a_keystream_is_the_cipher_of_the_counters_from_zero() -> None:
    key = bytes(range(32))
    counters = b"".join(block.to_bytes(16, "big") for block in range(1000))
    stream = Cipher(AES256(key), ECB()).encryptor().update(counters)
    drawn = entropy.Keystream(key)
    assert b"".join(drawn.read(n) for n in (1, 15, 33, 951)) == stream[:1000]


def test_the_sealing_cipher_agrees_with_the_published_cases_13_and_14_at_our_nonce() -> None:
    cipher = AESGCM(bytes(32))
    assert cipher.encrypt(seal._NONCE, b"", None).hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    assert cipher.encrypt(seal._NONCE, bytes(16), None).hex() == (
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    )


CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@pytest.mark.parametrize("n_leaves", CT_ROOTS)
def test_a_full_merkle_tree_agrees_with_the_reference_tree_of_certificate_transparency(n_leaves: int) -> None:
    assert choice.MerkleTree(CT_LEAVES[:n_leaves]).root.hex() == CT_ROOTS[n_leaves]


def rfc_6962(hashes: list[bytes]) -> bytes:
    """Section 2.1 on leaf hashes, for a power of two."""
    if len(hashes) == 1:
        return hashes[0]
    half = len(hashes) // 2
    return sha256(b"\1" + rfc_6962(hashes[:half]) + rfc_6962(hashes[half:])).digest()


@pytest.mark.parametrize("n_leaves", range(1, 20))
def test_any_merkle_tree_is_that_of_rfc_6962_filled_up_with_absent_leaves(n_leaves: int) -> None:
    leaves = [b"leaf %d" % i for i in range(n_leaves)]
    size = 1
    while size < n_leaves:
        size *= 2
    absent = sha256(b"secure_fed_diffusion secagg v3 no leaf").digest()
    hashes = [sha256(b"\0" + leaf).digest() for leaf in leaves] + [absent] * (size - n_leaves)
    tree = choice.MerkleTree(leaves)
    assert tree.root == rfc_6962(hashes)
    for index, leaf in enumerate(leaves):
        path = tree.path(index)
        assert choice.leads_to(tree.root, leaf, index=index, n_leaves=n_leaves, path=path)
        for other in range(size):
            if other != index:
                assert not choice.leads_to(tree.root, leaf, index=other, n_leaves=n_leaves, path=path)


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
