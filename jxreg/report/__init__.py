"""What a registration says: a record for machines, a page for people.

`registration_record` gathers all that is known about one frame in plain JSON values; `report_html`
makes one page of such a record and of pictures by `jxreg.plot`. The page needs no network, no
script library and no other file.
"""

from jxreg.report.page import PLATES, batch_html, report_html
from jxreg.report.record import Context, registration_record, versions

__all__ = ["PLATES", "Context", "batch_html", "registration_record", "report_html", "versions"]
