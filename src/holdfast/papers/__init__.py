"""The papers behind the library, their claims, and the evidence for or against them."""

from holdfast.papers.catalogue import BUILT, UNDESCRIBED, describe, evidence, load_paper, papers, search
from holdfast.papers.cite import bibtex, cite
from holdfast.papers.record import Claim, Interval, Paper, mean_interval
from holdfast.papers.reproduce import Reproduction, reproduce, write_evidence

__all__ = [
    "BUILT",
    "UNDESCRIBED",
    "Claim",
    "Interval",
    "Paper",
    "Reproduction",
    "bibtex",
    "cite",
    "describe",
    "evidence",
    "load_paper",
    "mean_interval",
    "papers",
    "reproduce",
    "search",
    "write_evidence",
]
