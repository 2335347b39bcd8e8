"""Croissant 1.0, the metadata of data sets that search engines and loaders read: https://docs.mlcommons.org/croissant/docs/croissant-spec.html"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

CONFORMS = "http://mlcommons.org/croissant/1.0"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def metadata(
    *,
    name: str,
    url: str,
    description: str,
    licence: str | None,
    files: Mapping[str, Sequence[str]],
    columns: Mapping[str, str],
    personal: str,
) -> dict:
    """Of the data set `name` at `url`, whose `files` (paths) of each language have `columns` (name -> meaning): a file set and a
    record set for each language. `personal` says what was done about personal data."""
    made = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": name,
        "url": url,
        "description": description,
        "inLanguage": sorted(files),
        "rai:personalSensitiveInformation": personal,
        "distribution": [_repository(url), *(_file_set(lang) for lang in sorted(files))],
        "recordSet": [_record_set(lang, columns) for lang in sorted(files)],
    }
    return made | ({"license": licence} if licence else {})


def text(made: dict) -> str:
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _repository(url: str) -> dict:
    return {
        "@type": "cr:FileObject",
        "@id": "repository",
        "name": "repository",
        "description": "the repository with all files",
        "contentUrl": url,
        "encodingFormat": "git+https",
        "sha256": hashlib.sha256(url.encode()).hexdigest(),  # the standard asks for one; git has its own for each file
    }


def _file_set(lang: str) -> dict:
    return {
        "@type": "cr:FileSet",
        "@id": f"files-{lang}",
        "name": f"files-{lang}",
        "containedIn": {"@id": "repository"},
        "encodingFormat": "application/x-parquet",
        "includes": f"data/{lang}/*.parquet",
    }


def _record_set(lang: str, columns: Mapping[str, str]) -> dict:
    return {
        "@type": "cr:RecordSet",
        "@id": lang,
        "name": lang,
        "key": {"@id": f"{lang}/doc_id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{lang}/{column}",
                "name": f"{lang}/{column}",
                "description": meaning,
                "dataType": "sc:Float" if column == "quality" else "sc:Text",
                "source": {"fileSet": {"@id": f"files-{lang}"}, "extract": {"column": column}},
            }
            for column, meaning in columns.items()
        ],
    }
