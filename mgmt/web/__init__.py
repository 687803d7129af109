"""The station's web page: server-rendered screens over the same use cases that the API and the command line call.

:func:`mgmt.web.pages.add_pages` adds the pages to the station's application. Every page works without JavaScript where
it can; htmx, its server-sent events and uPlot are vendored, and no page asks any other server for anything.
"""
