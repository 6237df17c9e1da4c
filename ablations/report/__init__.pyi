from .page import write_report as write_report
from .publish import publish as publish
