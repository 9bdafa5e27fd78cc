"""How raw data sets come here: downloads, archives, folders of files, receipts."""
