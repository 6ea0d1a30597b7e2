"""Series from and to a PACS: DICOM associations (C-STORE, C-FIND, C-GET, C-MOVE) and DICOMweb (QIDO, WADO, STOW).

Nothing here decodes pixels or encodes again: images pass as they are, byte for byte, compressed ones too.
"""
