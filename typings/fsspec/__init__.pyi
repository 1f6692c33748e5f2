# What adapters/blob_files.py uses; the package itself is not typed.
