"""What the simulated kernel writes into its log: the driver's own wording for loading, Xids and a lost GPU.

Source of the wording: public kernel logs and open-gpu-kernel-modules; `model/kernel_message.py` reads it back.
"""

from __future__ import annotations

from gpuwarden.sim.card import Card

KERN_ERR = 3
KERN_WARNING = 4
KERN_INFO = 6

_AER_WORDS = {  # severity -> the kernel's word, and a layer that has such errors
    "correctable": ("Corrected", "Data Link Layer"),
    "nonfatal": ("Uncorrected (Non-Fatal)", "Transaction Layer"),
    "fatal": ("Uncorrected (Fatal)", "Transaction Layer"),
}
AER_SEVERITIES = tuple(_AER_WORDS)
_NOBODY = "pid='<unknown>', name=<unknown>, "
_XID_TEXT = {  # what follows the code; {pid} and {row} are filled in
    13: "pid={pid}, name=python3, Graphics SM Warp Exception on (GPC 2, TPC 3, SM 0): Out Of Range Address",
    31: "pid={pid}, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ "
    "0x7f2c_a4000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
    43: "pid={pid}, name=python3, Ch 00000008, reset channel",
    45: "pid={pid}, name=python3, Ch 00000008",
    48: _NOBODY + "An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at partition 6, "
    "subpartition 1.",
    61: _NOBODY + "PMU breakpoint",
    62: _NOBODY + "20d5(2d50) 00000000 00000000",
    63: _NOBODY + "Row Remapper: New row (0x{row:016x}) marked for remapping, reset gpu to activate.",
    64: _NOBODY + "Row Remapper Error: (0x{row:016x}) - Failed to remap row.",
    74: _NOBODY + "NVLink: fatal error detected on link 3(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
    79: _NOBODY + "GPU has fallen off the bus.",
    92: _NOBODY + "High single-bit ECC error rate",
    94: _NOBODY + "Contained: SM (0x1). RST: No, D-RST: No",
    95: _NOBODY + "Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
    119: _NOBODY + "Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76 "
    "(GSP_RM_CONTROL) (0x2080a0bd 0x4).",
    120: _NOBODY + "GSP task exception: 7 (Illegal instruction) @ pc:0x1c3e2f4, task: 1",
    140: _NOBODY + "An unrecovered ECC error has been detected",
    144: "SAW_MVB Fatal XC0 i0 Link 3 (0x00000001 0x00000002 0x0 0x0 0x0 0x0)",  # words as from driver branch 575 on
    145: "RLW_REMAP Nonfatal XC0 i0 Link 3 (0x00000004 0x00000001 0x0 0x0 0x0 0x0)",
    146: "TLW_CTRL Fatal XC0 i0 Link 3 (0x00000009 0x00000004 0x0 0x0 0x0 0x0)",
    147: "TREX Nonfatal XC0 i0 Link 3 (0x0000000e 0x00000001 0x0 0x0 0x0 0x0)",
    148: "NVLPW_CTRL Nonfatal XC0 i0 Link 3 (0x0000000f 0x80000000 0x0 0x0 0x0 0x0)",
    149: "NETIR_LINK_EVT Fatal XC0 i0 Link 3 (0x00400011 0x00000000 0x0 0x0 0x0 0x0)",
    150: "MSE_WATCHDOG Fatal XC0 i0 Link -1 (0x00000000 0x00000000 0x0 0x0 0x0 0x0)",
    154: "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
}
_RECOVERY_LABELS = {0: "None", 1: "GPU Reset Required", 2: "Node Reboot Required", 3: "Drain P2P", 4: "Drain and Reset"}


def loading(version: str) -> str:
    """Return what the kernel module says when it is loaded."""
    return f"NVRM: loading NVIDIA UNIX x86_64 Kernel Module  {version}  Release Build"


def xid(card: Card, code: int, pid: int = 4242, text: str = "", where: str = "") -> str:
    """Return the line of one Xid on a card; `text` takes the place of the driver's usual words, `where` follows the
    card's address: the MIG instance."""
    rest = text or _XID_TEXT.get(code, _NOBODY + "simulated")
    return f"NVRM: Xid (PCI:{_slot(card)}{where}): {code}, " + rest.replace("{pid}", str(pid)).replace(
        "{row:016x}", f"{0x3A1F000 + card.slot:016x}"
    )


def aer(driver: str, bdf: str, severity: str) -> str:
    """Return the line of one PCIe error, of the GPU's driver or of a port's."""
    word, layer = _AER_WORDS[severity]
    return f"{driver} {bdf}: AER: PCIe Bus Error: severity={word}, type={layer}, (Requester ID)"


def nvlink5(unit: str, link: int, intr_info: int, status: int, *, fatal: bool) -> str:
    """Return what follows the code in an NVLink5 Xid."""
    weight = "Fatal" if fatal else "Nonfatal"
    return f"{unit} {weight} XC0 i0 Link {link:02d} ({intr_info:#010x} {status:#010x} 0x0 0x0 0x0 0x0)"


def recovery_changed(before: int, after: int, label: str) -> str:
    """Return what follows the code in an Xid 154; `label` takes the place of the usual word for `after`."""
    was, now = (_RECOVERY_LABELS.get(value, "Unknown") for value in (before, after))
    return f"GPU recovery action changed from {before:#x} ({was}) to {after:#x} ({label or now})"


def rate_limited(card: Card) -> str:
    """Return the driver's word that it prints only some of the GSP's time-outs from here on."""
    return (
        f"NVRM: Rate limiting GSP RPC error prints for GPU at PCI:{_slot(card)} (printing 1 of every 30).  "
        "The GPU likely needs to be reset."
    )


def sxid(code: int, link: int, switch: int, *, fatal: bool) -> tuple[str, ...]:
    """Return the lines of one NVSwitch error: the first says how bad it is, the others are its details."""
    head = f"nvidia-nvswitch{switch}: SXid (PCI:0000:{0xC4 + switch:02x}:00.0): {code:05d}, "
    return (
        f"{head}{'Fatal' if fatal else 'Non-fatal'}, Link {link:02d} simulated",
        f"{head}Severity {int(fatal)} Engine instance {link:02d} Sub-engine instance 00",
        f"{head}Data {{0x00000001, 0x00000001, 0x00000000, 0x00000001, 0x00000000, 0x00000000}}",
    )


def init_failed(card: Card, status: str) -> tuple[str, ...]:
    """Return the lines of a GPU that the driver cannot start."""
    return (
        f"NVRM: GPU {card.identity.bdf}: RmInitAdapter failed! ({status})",
        f"NVRM: GPU {card.identity.bdf}: rm_init_adapter failed, device minor number {card.identity.minor}",
    )


def fallen_off(card: Card) -> tuple[str, ...]:
    """Return the lines of a card that is gone from the bus, in the driver's order."""
    where = _slot(card)
    serial = card.identity.serial or "0"
    return (
        f"NVRM: GPU at PCI:{where}: {card.identity.uuid}",
        f"NVRM: GPU Board Serial Number: {serial}",
        xid(card, 79),
        f"NVRM: GPU at PCI:{where} has fallen off the bus.",
        f"NVRM: GPU {card.identity.bdf}: GPU serial number is {serial}.",
        xid(card, 154, text=_NOBODY + "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"),
    )


def _slot(card: Card) -> str:
    return card.identity.bdf.partition(".")[0]
