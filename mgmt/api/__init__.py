"""The station's HTTP faces, without logic: ``/api/v1``, ``/redfish/v1``, ``/metrics``, and who may use them."""
