"""Loaders of tables and texts."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from holdfast.core.checks import check_choice, check_number
from holdfast.data.environments import Environments
from holdfast.data.named.files import Get

__all__ = ["adult", "bike_sharing", "communities_crime", "electricity", "hate_speech", "heart_disease", "wine_quality"]

ADULT_COLUMNS = [
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship"),
    *("race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income"),
]
# fmt: off
STATES = {  # FIPS codes
    1: "AL", 2: "AK", 4: "AZ", 5: "AR", 6: "CA", 8: "CO", 9: "CT", 10: "DE", 11: "DC", 12: "FL", 13: "GA", 15:
    "HI", 16: "ID", 17: "IL", 18: "IN", 19: "IA", 20: "KS", 21: "KY", 22: "LA", 23: "ME", 24: "MD", 25: "MA", 26:
    "MI", 27: "MN", 28: "MS", 29: "MO", 30: "MT", 31: "NE", 32: "NV", 33: "NH", 34: "NJ", 35: "NM", 36: "NY", 37:
    "NC", 38: "ND", 39: "OH", 40: "OK", 41: "OR", 42: "PA", 44: "RI", 45: "SC", 46: "SD", 47: "TN", 48: "TX", 49:
    "UT", 50: "VT", 51: "VA", 53: "WA", 54: "WV", 55: "WI", 56: "WY"
}
# fmt: on
PLATFORMS = {
    "twitter": "davidson_twitter.csv.gz",
    "gab": "ghc_gab.csv.gz",
    "reddit": "cad_reddit.csv.gz",
    "stormfront": "stormfront.csv.gz",
    "fox_news": "fox_news_comments.csv.gz",
    "youtube_reddit": "ethos_youtube_reddit.csv.gz",
}


def _text(path: Path) -> str:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")


def _frame(path: Path) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(_text(path)))


def _floats(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as float64, all else as it is: what the table reader gives."""
    return frame.astype({c: np.float64 for c in frame if pd.api.types.is_numeric_dtype(frame[c])})


def adult(
    get: Get,
    *,
    environment: Literal["race", "sex", "country", "age", "part"] = "race",
    part: Literal["train", "test", "all"] = "train",
) -> Environments:
    """Census income: does a person earn above 50,000 dollars?

    ``environment`` "race" (5), "sex" (2), "country" (41, "?" for unknown), "age" (decades) or "part"; its column
    is then no feature. ``part`` "train" (32,561), "test" (16,281) or "all". Attributes: ``sex``, ``race``,
    ``country``, ``age``, ``weight`` (the census weight, no feature).
    """
    check_choice("environment", environment, ("race", "sex", "country", "age", "part"))
    check_choice("part", part, ("train", "test", "all"))
    chosen = [("train", "adult.data.gz"), ("test", "adult.test.gz")]
    chosen = [(p, f) for p, f in chosen if environment == "part" or part in (p, "all")]
    frames = []
    for p, f in chosen:
        lines = [line for line in _text(get(f)).splitlines() if line and not line.startswith("|")]
        frame = pd.read_csv(
            io.StringIO("\n".join(lines)), names=ADULT_COLUMNS, skipinitialspace=True, na_values="?", header=None
        )
        frames.append(frame.assign(part=p))
    frame = pd.concat(frames, ignore_index=True)
    y = np.where(frame["income"].str.rstrip(".") == ">50K", ">50K", "<=50K")
    country = frame["native_country"].fillna("?").to_numpy(dtype=str)
    decade = np.minimum(frame["age"].to_numpy() // 10, 7)
    attributes = {
        "sex": frame["sex"].to_numpy(dtype=str),
        "race": frame["race"].to_numpy(dtype=str),
        "country": country,
        "age": frame["age"].to_numpy(),
        "weight": frame["fnlwgt"].to_numpy(),
    }
    ages = np.array([f"{10 * k} to {10 * k + 9}" if k < 7 else "70 and above" for k in range(8)])
    where = {"age": ages[decade], "part": frame["part"].to_numpy(dtype=str)}.get(
        environment, attributes.get(environment)
    )
    column = {"country": "native_country"}.get(environment, environment)
    x = _floats(frame.drop(columns=["income", "fnlwgt", "part", *([column] if column != "part" else [])]))
    return Environments.from_arrays(x, y, where, attributes)


def wine_quality(get: Get, *, target: Literal["good", "quality", "score"] = "good") -> Environments:
    """Red and white wines as two environments.

    ``target`` "good" (quality of 6 or more, as 0/1), "quality" (3 to 9 as classes) or "score" (as a number).
    """
    check_choice("target", target, ("good", "quality", "score"))
    frames = []
    for colour in ("red", "white"):
        text = _text(get(f"winequality-{colour}.csv.gz"))
        frame = pd.read_csv(io.StringIO(text), sep=";" if ";" in text.split("\n", 1)[0] else ",")
        frames.append(frame.rename(columns=lambda c: c.replace(" ", "_")).assign(colour=colour))
    frame = pd.concat(frames, ignore_index=True)
    quality = frame.pop("quality").to_numpy().astype(np.int64)
    y = {"good": (quality >= 6).astype(np.int64), "quality": quality, "score": quality.astype(np.float64)}[target]
    where = frame.pop("colour").to_numpy(dtype=str)
    return Environments.from_arrays(_floats(frame), y, where, {"quality": quality})


def bike_sharing(
    get: Get,
    *,
    environment: Literal["season", "year", "weather"] = "season",
    target: Literal["rentals", "busy"] = "rentals",
) -> Environments:
    """Hourly bike rentals.

    ``environment`` "season" (4), "year" (2011, 2012) or "weather" (4); its column is then no feature. ``target``
    "rentals" (a number) or "busy" (above the median hour, as 0/1). The date is attribute ``date``.
    """
    check_choice("environment", environment, ("season", "year", "weather"))
    check_choice("target", target, ("rentals", "busy"))
    frame = _frame(get("hour.csv.gz"))
    rentals = frame["cnt"].to_numpy()
    column, names = {
        "season": ("season", ("winter", "spring", "summer", "autumn")),
        "year": ("yr", ("2011", "2012")),
        "weather": ("weathersit", ("clear", "mist", "light rain or snow", "heavy rain or snow")),
    }[environment]
    codes = frame[column].to_numpy() - frame[column].min()
    y = rentals.astype(np.float64) if target == "rentals" else (rentals > np.median(rentals)).astype(np.int64)
    # The month gives the season away, and casual + registered are the target.
    hidden = ["instant", "dteday", "casual", "registered", "cnt", column, *(["mnth"] if column == "season" else [])]
    x = _floats(frame.drop(columns=hidden))
    return Environments.from_arrays(x, y, codes, {"date": frame["dteday"].to_numpy(dtype=str)}, names=names)


def communities_crime(get: Get, *, target: Literal["rate", "high"] = "rate", smallest: int = 1) -> Environments:
    """Violent crime in 1,994 US communities, by state.

    ``target`` "rate" (scaled to 0..1) or "high" (above the median, as 0/1); ``smallest`` leaves out states with
    fewer communities. Attributes: ``racepctblack`` and ``racePctWhite``, which are features too.
    """
    check_choice("target", target, ("rate", "high"))
    check_number("smallest", smallest, low=1, integer=True)
    frame = pd.read_csv(io.StringIO(_text(get("communities.csv.gz"))), na_values="?")
    state = np.array([STATES[int(s)] for s in frame["state"]])
    rate = frame["ViolentCrimesPerPop"].to_numpy(dtype=np.float64)
    y = rate if target == "rate" else (rate > np.median(rate)).astype(np.int64)
    x = _floats(frame.drop(columns=["state", "county", "community", "communityname", "fold", "ViolentCrimesPerPop"]))
    _, place, size = np.unique(state, return_inverse=True, return_counts=True)
    kept = size[place] >= smallest
    facts = {k: frame[k].to_numpy()[kept] for k in ("racepctblack", "racePctWhite")}
    return Environments.from_arrays(x[kept], y[kept], state[kept], facts)


def heart_disease(get: Get) -> Environments:
    """Heart disease at four hospitals, as 0/1; codes are categories, a cholesterol of 0 is missing.

    Attributes: ``sex``, ``age`` (features too) and ``severity`` (0 to 4).
    """
    frame = _frame(get("heart_disease_4_sites.csv.gz"))
    severity = frame.pop("num").to_numpy().astype(np.int64)
    where = frame.pop("site").to_numpy(dtype=str)
    frame.loc[frame["chol"] == 0, "chol"] = np.nan
    attributes = {
        "sex": np.where(frame["sex"] == 1, "male", "female"),
        "age": frame["age"].to_numpy(),
        "severity": severity,
    }
    for column in ("cp", "restecg", "slope", "thal"):
        frame[column] = frame[column].map(lambda v: None if pd.isna(v) else str(int(v))).astype(object)
    return Environments.from_arrays(_floats(frame), (severity > 0).astype(np.int64), where, attributes)


def electricity(get: Get, *, blocks: int = 5) -> Environments:
    """Does the price of electricity go up or down? ``blocks`` of equal length in time are the environments.

    The time (0 to 1 over the whole) is attribute ``time``, no feature.
    """
    check_number("blocks", blocks, low=2, high=1000, integer=True)
    frame = _frame(get("electricity.csv.gz"))
    y = frame.pop("class").to_numpy(dtype=str)
    time = frame.pop("date").to_numpy()
    where = np.arange(len(y)) * blocks // len(y)
    names = tuple(f"time {i + 1}" for i in range(blocks))
    return Environments.from_arrays(_floats(frame), y, where, {"time": time}, names=names)


def hate_speech(
    get: Get, *, hatexplain: bool = False, hatecheck: bool = False, limit: int | None = None, seed: int = 0
) -> Environments:
    """Posts from six platforms, labelled hate 1 or 0. The texts are offensive.

    ``hatexplain`` adds its Gab and Twitter posts, which were annotated by another scheme, as two further
    environments; ``hatecheck`` adds its written tests. ``limit`` keeps at most so many posts of an environment,
    drawn with ``seed``. Attributes: ``label`` and ``targets`` of the source, ``split``.
    """
    if limit is not None:
        check_number("limit", limit, low=1, integer=True)
    files = dict(PLATFORMS)
    if hatexplain:
        files["hatexplain"] = "hatexplain_val_test.csv.gz"
    if hatecheck:
        files["hatecheck"] = "hatecheck.csv.gz"
    rng = np.random.default_rng(seed)
    frames = []
    for name, file in files.items():
        frame = pd.read_csv(io.StringIO(_text(get(file))), keep_default_na=False)
        frame = frame[["text", "hate", "label", "targets", "split", "platform"]]
        where = "hatexplain_" + frame["platform"] if name == "hatexplain" else name
        frame = frame.assign(environment=where)
        if limit is not None:
            drawn = [g.iloc[np.sort(rng.permutation(len(g))[:limit])] for _, g in frame.groupby("environment")]
            frame = pd.concat(drawn)
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True)
    attributes = {k: frame[k].to_numpy(dtype=object).astype(str) for k in ("label", "targets", "split")}
    y = frame["hate"].to_numpy().astype(np.int64)
    return Environments.from_arrays(frame["text"].tolist(), y, frame["environment"].tolist(), attributes, kind="text")
