"""Where a loss comes from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A source: title, year, where to find it (arXiv identifier, venue, …), and which equation is meant."""

    title: str
    year: int
    reference: str = ""
    equation: str = ""

    def __str__(self):
        where = f", {self.reference}" if self.reference else ""
        equation = f", Eq. {self.equation}" if self.equation else ""
        return f"{self.title} ({self.year}){where}{equation}"

    @property
    def url(self) -> str | None:
        kind, _, identifier = self.reference.partition(":")
        sites = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
        return sites[kind] + identifier if kind in sites else None
