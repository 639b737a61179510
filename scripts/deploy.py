#!/usr/bin/env python3
"""Makes the single files of deploy/ (`eci.yaml`, …) of the overlays in deploy/overlays/.

    deploy.py [--check] [DIRECTORY]     DIRECTORY: `deploy`, unless another is named

kustomize drops comments and sorts fields, and people read these files. So the text is put together here: fields and
comments of the base, with those of each patch in their places, below the comment that begins the overlay's
kustomization.yaml. kustomize then decides the content: strings that it has changed (names, images) are written into the
text, and any other difference between the text and its output is an error.

`--check` writes nothing and fails when a file is not what its overlay makes.
"""

import difflib
import json
import os
import re
import shutil
import subprocess
import sys

import yaml

LOCAL = "config.kubernetes.io/local-config"
PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Entry:
    """A field: the comments above it, its first line, and what is below it, as fields where it is a block mapping."""

    def __init__(self, comments, key, line):
        self.comments, self.key, self.line = comments, key, line
        self.body, self.fields = [], None

    def lines(self):
        below = self.body if self.fields is None else [line for field in self.fields for line in field.lines()]
        return [*self.comments, self.line, *below]


def fields(lines, indent=0):
    """The fields of a block mapping. Its comments belong to the field or the list item that follows them."""
    entries, comments = [], []
    for line in lines:
        here = len(line) - len(line.lstrip())
        if not line.strip() or (here == indent and line[here] == "#"):
            comments.append(line)
        elif here == indent and not line[here:].startswith("- "):
            entries.append(Entry(comments, line[here:].split(":")[0], line))
            comments = []
        else:
            entries[-1].body += [*comments, line]
            comments = []
    for entry in entries:
        content = [line for line in entry.body if not line.lstrip().startswith("#")]
        if entry.line.endswith(":") and content and re.match(rf" {{{indent + 2}}}[^ -]", content[0]):
            entry.fields = fields(entry.body, indent + 2)
    return entries


def merge(base, patch):
    """As a strategic merge patch does it with kinds that kustomize does not know."""
    for entry in patch:
        index = next((i for i, it in enumerate(base) if it.key == entry.key), None)
        if entry.line.endswith(": null"):
            del base[index]
        elif index is None:
            base.append(entry)
        elif base[index].fields is not None and entry.fields is not None:
            merge(base[index].fields, entry.fields)
            base[index].comments = entry.comments or base[index].comments
        else:
            entry.comments = entry.comments or base[index].comments
            base[index] = entry
    return base


def comment(lines):
    """The comment that a file begins with."""
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return lines[:end], lines[end:]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def documents(path):
    """The documents of a file of manifests, without its first comment, which is about the file."""
    _, lines = comment(read(path))
    parts = [[]]
    for line in lines:
        if line == "---":
            parts.append([])
        else:
            parts[-1].append(line)
    return [fields(part) for part in parts if not any(LOCAL in line for line in part)]


def kind(document):
    return next(entry.line for entry in document if entry.key == "kind")


def build(directory, made=()):
    """The text of a kustomization's resources; of a component, of those that it patches."""
    path = os.path.join(directory, "kustomization.yaml")
    says, lines = comment(read(path))
    kustomization = yaml.safe_load("\n".join(lines))
    made = list(made)
    for resource in kustomization.get("resources", []):
        resource = os.path.join(directory, resource)
        made += build(resource) if os.path.isdir(resource) else documents(resource)
    for component in kustomization.get("components", []):
        made = build(os.path.join(directory, component), made)
    for patch in kustomization.get("patches", []):
        for change in documents(os.path.join(directory, patch["path"])):
            for document in made:
                if kind(document) == kind(change):
                    merge(document, [entry for entry in change if entry.key != "metadata"])
    if kustomization["kind"] == "Kustomization" and made and says:
        made[0][0].comments = says
    return made


def changes(node, value, path=""):
    """Scalars of a text that have another value, with the places where they stand."""
    if isinstance(node, yaml.MappingNode) and isinstance(value, dict):
        for key, below in node.value:
            if key.value in value:
                yield from changes(below, value[key.value], f"{path}/{key.value}")
    elif isinstance(node, yaml.SequenceNode) and isinstance(value, list) and len(node.value) == len(value):
        for index, (below, wanted) in enumerate(zip(node.value, value)):
            yield from changes(below, wanted, f"{path}/{index}")
    elif isinstance(node, yaml.ScalarNode) and isinstance(value, str) and node.value != value:
        if node.style in ("|", ">"):
            raise SystemExit(f"{path}: write this field on one line, as kustomize changes it")
        plain = re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9_./@]*(:[-A-Za-z0-9_./@]+)*", value)
        yield node.start_mark.index, node.end_mark.index, value if plain else json.dumps(value)


def kustomize():
    """The program that builds kustomizations."""
    for program, *arguments in (["kubectl", "kustomize"], ["kustomize", "build"],
                                [os.path.join(PROJECT, "e2e/cluster/.cache/bin/kubectl"), "kustomize"]):
        if shutil.which(program):
            return [program, *arguments]
    raise SystemExit("neither kubectl nor kustomize is installed")


def render(overlay, program):
    made = build(overlay)
    made[0][0].comments += ["#", f"# Made by `make deploy`: change overlays/{os.path.basename(overlay)} and base."]
    text = "---\n".join("".join(f"{line}\n" for entry in document for line in entry.lines()) for document in made)
    output = subprocess.run([*program, overlay], check=True, stdout=subprocess.PIPE, text=True).stdout
    wanted = list(yaml.safe_load_all(output))
    found = [change for node, value in zip(yaml.compose_all(text), wanted) for change in changes(node, value)]
    for start, end, value in sorted(found, reverse=True):
        text = text[:start] + value + text[end:]
    made = list(yaml.safe_load_all(text))
    if made != wanted:
        as_text = [yaml.safe_dump_all(it).splitlines() for it in (wanted, made)]
        difference = "\n".join(difflib.unified_diff(*as_text, "kustomize", "text", lineterm=""))
        raise SystemExit(f"{overlay}: the text is not what kustomize makes:\n{difference}")
    return text


def main(arguments):
    check = "--check" in arguments
    directory = next((it for it in arguments if it != "--check"), os.path.join(PROJECT, "deploy"))
    program = kustomize()
    overlays = os.path.join(directory, "overlays")
    stale = []
    for name in sorted(os.listdir(overlays)):
        made = render(os.path.join(overlays, name), program)
        path = os.path.join(directory, f"{name}.yaml")
        before = "\n".join(read(path)) + "\n" if os.path.exists(path) else ""
        if before == made:
            continue
        stale.append(path)
        if check:
            sys.stderr.writelines(difflib.unified_diff(
                before.splitlines(True), made.splitlines(True), path, f"of {overlays}/{name}"))
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(made)
            print(f"wrote {path}")
    if check and stale:
        raise SystemExit(f"not what the overlays make (`make deploy` writes them): {', '.join(stale)}")


if __name__ == "__main__":
    main(sys.argv[1:])
