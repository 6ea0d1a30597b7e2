"""What ``monailabel start_server --app`` looks for in an app's folder."""

from monai_ldmsr.label.app import SuperResolutionApp

__all__ = ["SuperResolutionApp"]
