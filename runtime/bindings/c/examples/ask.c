/* Asks a question of a bundle on this device, and of a large model when the device is unsure:
 *     ask small.bundle https://llm.example.com/v1 large "wake me at six"     (CLOUD_TOKEN holds the key) */
#include <margay.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call) \
    if ((call) != MARGAY_STATUS_OK) return fprintf(stderr, "%s\n", margay_last_error_message()), 1

static int token(void *data, bool renewed, margay_token_place *place) {
    (void)data, (void)renewed;
    return margay_token_give(place, getenv("CLOUD_TOKEN"));
}

static int show(void *data, const margay_event *event) {
    (void)data;
    return event->kind == MARGAY_EVENT_KIND_SUPERSEDED ? puts(" ... no, wait:") < 0 : printf("%s", event->text) < 0;
}

int main(int count, char **arguments) {
    if (count != 5) return fprintf(stderr, "ask BUNDLE ENDPOINT MODEL QUESTION\n"), 2;
    margay_cloud_options large = {.size = sizeof large, .endpoint = arguments[2], .model = arguments[3]};
    large.provide_token = token, large.redact_patterns = large.platform_roots = true;
    margay_bundle *bundle; margay_engine *engine; margay_cloud *cloud; margay_cascade *cascade;
    TRY(margay_bundle_open(arguments[1], NULL, &bundle));
    TRY(margay_engine_load(bundle, NULL, &engine));
    TRY(margay_cloud_create(&large, &cloud));
    TRY(margay_cascade_create(engine, cloud, NULL, &cascade));
    margay_request *request; margay_answer *answer; margay_answer_info info = {.size = sizeof info};
    TRY(margay_request_create(NULL, &request));
    TRY(margay_request_add_message(request, "user", arguments[4]));
    TRY(margay_cascade_stream(cascade, request, MARGAY_STREAM_OPTIMISTIC, show, NULL, &answer));
    TRY(margay_answer_read(answer, &info));
    printf("\n[%s: score %.2f, threshold %.2f, %s]\n", info.origin == MARGAY_ORIGIN_CLOUD ? "cloud" : "local", info.score,
           info.threshold, info.reason ? info.reason : "sure enough");
    margay_answer_destroy(answer), margay_request_destroy(request), margay_cascade_destroy(cascade);
    return margay_cloud_destroy(cloud), margay_engine_destroy(engine), margay_bundle_destroy(bundle), 0;
}
