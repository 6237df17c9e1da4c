from .planned import plan as plan
