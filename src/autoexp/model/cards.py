"""How fast a card could be: the peak of its matrix units, against which the utilisation of a training is told.

Dense products in bf16 or fp16 with sums in fp32, as training makes them: no sparsity, and for GeForce cards the rate
with fp32 sums, which is half of the one that is advertised. The figures are the vendors' own, at the boost clock, and
were not measured.
"""

from __future__ import annotations

import re

import torch

# Operations a second, in units of 10^12, by a part of the name that the driver gives. The longest part that matches
# counts. None: known not to be what a shorter part says.
TERAFLOPS: dict[str, float | None] = {
    # Volta. NVIDIA V100 datasheet (2020): 125 SXM2, 112 PCIe, 130 V100S; TITAN V product page. fp16 only.
    **{"V100-SXM2": 125, "V100-SXM3": 125, "V100-PCIE": 112, "V100S": 130, "TITAN V": 110},
    # Turing. T4 datasheet; Turing white paper, appendix A (cards of reference design, not Founders Edition). fp16 only.
    **{"T4": 65, "TITAN RTX": 130.5, "Quadro RTX 8000": 130.5, "Quadro RTX 6000": 130.5, "Quadro RTX 5000": 89.2},
    **{"RTX 2080 Ti": 53.8, "RTX 2080 SUPER": 44.6, "RTX 2080": 40.3, "RTX 2070 SUPER": 36.3, "RTX 2070": 29.9},
    **{"RTX 2060 SUPER": 28.7, "RTX 2060": 25.8},
    # Ampere, data centre. Datasheets of A100, A30, A10, A2, A40; A10G: AWS G5 datasheet of NVIDIA. A800 is an A100 with
    # slower links.
    **{"A100": 312, "A800": 312, "A30": 165, "A40": 149.7, "A10": 125, "A10G": 70, "A2": 18},
    # Ampere, workstation. Datasheets of RTX A6000, A5000, A4000 (they print twice as much, with sparsity).
    **{"RTX A6000": 154.8, "RTX A5000": 111.1, "RTX A4000": 76.7},
    # Ampere, GeForce. GA102 white paper, appendix A, for 3090, 3080 and 3070; the others are twice their fp32 rate on
    # the product page, as it is for those.
    **{"RTX 3090 Ti": 80, "RTX 3090": 71, "RTX 3080 Ti": 68.2, "RTX 3080": 59.5, "RTX 3070 Ti": 43.5, "RTX 3070": 40.6},
    **{"RTX 3060 Ti": 32.4, "RTX 3060": 25.5},
    # Ada, data centre and workstation. Datasheets of L4, L40, L40S, and of RTX 6000, 5000, 4500 and 4000 Ada (a quarter
    # of the fp8 rate with sparsity that they print).
    **{"L4": 121, "L40": 181, "L40S": 362, "RTX 6000 Ada": 364.2, "RTX 5000 Ada": 261.1, "RTX 4500 Ada": 158.5},
    **{"RTX 4000 Ada": 106.9, "RTX 4000 SFF Ada": 76.7},
    # Ada, GeForce. Ada white paper, appendix A, for 4090 and 4080; the others are twice their fp32 rate.
    **{"RTX 4090 D": 147.1, "RTX 4090": 165.2, "RTX 4080 SUPER": 104.4, "RTX 4080": 97.5, "RTX 4070 Ti SUPER": 88.2},
    **{"RTX 4070 Ti": 80.2, "RTX 4070 SUPER": 71, "RTX 4070": 58.3, "RTX 4060 Ti": 44.1, "RTX 4060": 30.2},
    # Hopper. Datasheets of H100 (SXM, PCIe, NVL), H200 (SXM, NVL), GH200: half of the figure with sparsity. H800 is an
    # H100 with slower links; H20: NVIDIA's figures for partners, 2023.
    **{"H100": 989.5, "H100 PCIe": 756.5, "H100 NVL": 835.5, "H800": 989.5, "H800 PCIe": 756.5, "H20": 148},
    **{"H200": 989.5, "H200 NVL": 835.5, "GH200": 989.5},
    # Blackwell, data centre. Architecture brief and datasheets of HGX B100/B200/B300, GB200 and GB300 NVL72, per GPU.
    **{"B100": 1750, "B200": 2250, "GB200": 2500, "B300": 2250, "GB300": 2500},
    # Blackwell, workstation and GeForce. RTX PRO and RTX Blackwell white papers for PRO 6000, 5090, 5080 and 5070; the
    # others are twice their fp32 rate. The matrix units of a 5090 D are held back by an amount that is not published.
    **{"RTX PRO 6000 Blackwell Workstation": 503.8, "RTX PRO 6000 Blackwell Max-Q": 438.9, "RTX 5090 D": None},
    **{"RTX 5090": 209.5, "RTX 5080": 112.6, "RTX 5070 Ti": 87.9, "RTX 5070": 61.7, "RTX 5060 Ti": 47.4},
    **{"RTX 5060": 38.4},
    # AMD. Instinct datasheets. An MI250 is two devices to torch, and half of its datasheet's figure each.
    **{"MI210": 181, "MI250": 181, "MI250X": 191.5, "MI250X / MI250": None, "MI250X/MI250": None, "MI300A": 980.6},
    **{"MI300X": 1307.4, "MI325X": 1307.4, "MI350X": 2300, "MI355X": 2500},
}

# A slice of a card (MIG, or a virtual one like A40-48Q) and the mobile card of a name are slower than the name says.
NOT_WHOLE = re.compile(r"\bMIG\b|\bLaptop\b|\bMobile\b|Max-Q Design|-\d+[ABCQ]\b")


def peak_of(name: str, dtype: torch.dtype) -> float | None:
    """Dense operations a second in `dtype` of the GPU that the driver calls `name`; None where it is not known.

    Nothing is known of float32: what torch makes of it, TF32 or not, differs from product to product.
    """
    if dtype not in (torch.bfloat16, torch.float16) or NOT_WHOLE.search(name):
        return None
    found = [part for part in TERAFLOPS if re.search(rf"(?<![A-Za-z0-9]){re.escape(part)}(?![A-Za-z0-9])", name, re.I)]
    tera = TERAFLOPS[max(found, key=len)] if found else None
    return None if tera is None else tera * 1e12
