"""An OpenTelemetry collector of a few lines: takes OTLP over HTTP, and reads it with the official protocol package.

    otlp_receiver.py

The first line it prints is its port. When its input ends it prints one JSON object: `requests` (path, headers, bytes as Latin-1),
`spans` and `metrics`.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

requests, spans, metrics = [], [], []


def plain(attributes):
    return {a.key: next(iter(MessageToDict(a.value).values()), None) for a in attributes}


def take_spans(body):
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                spans.append(
                    {
                        "name": span.name,
                        "scope": scope.scope.name,
                        "resource": plain(resource.resource.attributes),
                        "attributes": plain(span.attributes),
                        "events": [event.name for event in span.events],
                        "nanoseconds": span.end_time_unix_nano - span.start_time_unix_nano,
                    }
                )


def take_metrics(body):
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                points = getattr(metric, kind).data_points
                metrics.append(
                    {
                        "name": metric.name,
                        "unit": metric.unit,
                        "description": metric.description,
                        "kind": kind,
                        "resource": plain(resource.resource.attributes),
                        "points": [{**MessageToDict(p), "attributes": plain(p.attributes)} for p in points],
                    }
                )


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        requests.append({"path": self.path, "headers": dict(self.headers), "bytes": body.decode("latin-1")})
        {"/v1/traces": take_spans, "/v1/metrics": take_metrics}[self.path](body)
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
server.shutdown()
print(json.dumps({"requests": requests, "spans": spans, "metrics": metrics}))
