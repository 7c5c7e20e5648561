"""Replay a run of a databroker catalogue: `python replay_databroker.py CATALOG UID hedmlive.yml`.

It works alike with databroker 1.2.5, which many beamlines pin, and with 2.x. On the command line the same is
`hedmlive replay databroker://CATALOG/UID --settings hedmlive.yml --out FOLDER`.
"""

import sys

import databroker

from hedmlive.callbacks import load_settings, process, run_documents

if __name__ == "__main__":
    catalog, uid, settings = sys.argv[1:]
    run = databroker.catalog[catalog][uid]
    # References to frames stay references: frames are read from the detector's files, one at a time.
    result = process(run_documents(run), load_settings(settings))
    for line in result.problems:
        print("!", line)
    for digest in result.digests.values():
        print(digest, result.reduced)
