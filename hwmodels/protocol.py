"""What share of a link's bytes is payload: packet headers and flits of PCIe and CXL.

- pcie, cxl.io: packets of at most `packet_bytes` (256 by default) of data. A completion with data carries 20 bytes of
  header, framing and checksum: Neugebauer et al., "Understanding PCIe performance for end host networking", SIGCOMM
  2018, section 3 (2 framing, 6 data-link layer, 12 header). Share: 256 / 276 = 0.928.
- cxl.mem: lines of 64 bytes (`packet_bytes`) in slots of 16; one slot of headers for each line, so 64 / 80. Flits pack
  headers of several lines into a slot where they can, which brings that up to 64 / 69.3: ours is the lower end.
- flits: of 68 bytes (CXL 1.1 and 2.0) 64 are slots; of 256 bytes (CXL 3.0) 240 are (2 bytes of header, 8 of checksum,
  6 of error correction). Recalled from the specifications.
Latencies differ too and are the link's `latency_s`: a load over CXL.mem takes some 0.2 us, a copy that a driver starts
5 us and more.
"""

from hwmodels.errors import PlatformError

PROTOCOLS = ("pcie", "cxl.io", "cxl.mem")
_PACKET_BYTES = {"pcie": 256, "cxl.io": 256, "cxl.mem": 64}
_HEADER_BYTES = {"pcie": 20, "cxl.io": 20, "cxl.mem": 16}
_SLOT_BYTES = {0: 0, 68: 64, 256: 240}  # of a flit; 0: no flits


def payload_share(protocol: str, flit_bytes: int = 0, packet_bytes: int = 0) -> float:
    """Bytes of data per byte on the link; 1 without a protocol.

    >>> round(payload_share("pcie"), 4), round(payload_share("cxl.mem", 68), 4)
    (0.9275, 0.7529)
    """
    if not protocol:
        return 1.0
    packet = packet_bytes or _PACKET_BYTES[protocol]
    share = packet / (packet + _HEADER_BYTES[protocol])
    return share * _SLOT_BYTES[flit_bytes] / flit_bytes if flit_bytes else share


def check_protocol(protocol: str, flit_bytes: int, packet_bytes: int, at: str) -> None:
    """Raises PlatformError for what is no protocol; `at` begins messages, up to the field's name."""
    if protocol and protocol not in PROTOCOLS:
        raise PlatformError(f"{at}.protocol' must be one of {', '.join(PROTOCOLS)}, got '{protocol}'.")
    if (flit_bytes or packet_bytes) and not protocol:
        raise PlatformError(f"{at}.flit_bytes' and 'packet_bytes' go with a protocol.")
    if flit_bytes not in _SLOT_BYTES:
        raise PlatformError(f"{at}.flit_bytes' must be 68 or 256, or left out, got {flit_bytes}.")
    if packet_bytes < 0:
        raise PlatformError(f"{at}.packet_bytes' must not be negative, got {packet_bytes}.")
