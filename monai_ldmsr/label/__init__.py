"""MONAI Label: an app whose results are images, in a local folder of volume files or at a DICOMweb service.

Needs the packages of ``requirements-label.txt``, in an environment of their own: ``make label``.
"""
