/* Everything in margay.h, used and misused. tests/program.rs starts the server that it talks to and says what that gives:
 *
 *     program BUNDLE PLAIN_BUNDLE ENDPOINT AUTHORITY.pem EXPECTED_ANSWER MARGAY.toml
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "margay.h"

#define CHECK(what)                                                                                   \
    do {                                                                                              \
        if (!(what)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n  last error: %d %s\n", __FILE__, __LINE__, #what,            \
                    (int)margay_last_error_status(), margay_last_error_message());                    \
            exit(1);                                                                                  \
        }                                                                                             \
    } while (0)
#define OK(call) CHECK((call) == MARGAY_STATUS_OK)
#define FAILS(status, call) CHECK((call) == MARGAY_STATUS_##status && margay_last_error_status() == MARGAY_STATUS_##status)

static const char QUESTION[] = "I am Ada Lovelace, ada@example.com";

/* What the callbacks see and leave. */
struct app {
    int tokens_given, tokens_renewed, destroyed, fail_token, fail_redaction, texts;
    sem_t asked;
};

static int provide_token(void *user_data, bool renewed, margay_token_place *place) {
    struct app *app = user_data;
    app->tokens_given += 1;
    app->tokens_renewed += renewed;
    sem_post(&app->asked);
    CHECK(margay_token_give(place, "caf\xe9") == MARGAY_STATUS_INVALID_UTF8);
    CHECK(margay_token_give(NULL, "token") == MARGAY_STATUS_NULL_ARGUMENT);
    if (app->fail_token) return 7;
    return margay_token_give(place, renewed ? "second-token" : "first-token");
}

static int redact(void *user_data, const char *text, size_t length, margay_redaction *redaction) {
    struct app *app = user_data;
    CHECK(strlen(text) == length);
    app->texts += 1;
    if (app->fail_redaction) return 1;
    const char *name = strstr(text, "Ada Lovelace");
    CHECK(margay_redaction_take(redaction, "NAME", 3, length + 1) == MARGAY_STATUS_INVALID_REQUEST);
    CHECK(margay_redaction_take(redaction, "NAME", 3, 3) == MARGAY_STATUS_INVALID_REQUEST);
    CHECK(margay_redaction_take(NULL, "NAME", 0, 1) == MARGAY_STATUS_NULL_ARGUMENT);
    if (name == NULL) return 0;
    size_t at = (size_t)(name - text);
    return margay_redaction_take(redaction, "NAME", at, at + strlen("Ada Lovelace"));
}

static void destroy_app(void *user_data) { ((struct app *)user_data)->destroyed += 1; }

static margay_request *request_for(const char *task, size_t max_tokens, const char *content) {
    margay_request_options options = {.size = sizeof options, .task = task, .max_tokens = max_tokens};
    margay_request *request = NULL;
    OK(margay_request_create(&options, &request));
    OK(margay_request_add_message(request, "user", content));
    return request;
}

static margay_answer_info info_of(margay_answer *answer) {
    margay_answer_info info = {.size = sizeof info};
    OK(margay_answer_read(answer, &info));
    CHECK(strlen(info.text) == info.text_length);
    return info;
}

/* Joins what still stands of a stream. */
struct heard {
    char text[4096];
    int tokens, superseded, break_after;
    margay_cascade *cascade;
    margay_request *request;
};

static int on_event(void *user_data, const margay_event *event) {
    struct heard *heard = user_data;
    CHECK(event->size == sizeof *event);
    if (event->kind == MARGAY_EVENT_KIND_SUPERSEDED) {
        CHECK(strcmp(event->reason, "low-confidence") == 0);
        heard->superseded += 1;
        heard->text[0] = 0;
        return 0;
    }
    CHECK(event->text_length > 0 && strlen(event->text) == event->text_length);
    CHECK(event->origin == (heard->superseded ? MARGAY_ORIGIN_CLOUD : MARGAY_ORIGIN_LOCAL));
    strcat(heard->text, event->text);
    heard->tokens += 1;
    margay_answer *answer = NULL;
    CHECK(margay_cascade_answer(heard->cascade, heard->request, &answer) == MARGAY_STATUS_IN_CALLBACK && answer == NULL);
    return heard->break_after && heard->tokens >= heard->break_after;
}

static void engine_alone(margay_engine *engine, const char *expected);
static void misuse(margay_bundle *bundle, margay_engine *engine, margay_cascade *cascade, const char *plain);

struct asking {
    margay_cascade *cascade;
    margay_request *request;
    margay_status status;
};

static void *ask(void *argument) {
    struct asking *asking = argument;
    margay_answer *answer = NULL;
    asking->status = margay_cascade_answer(asking->cascade, asking->request, &answer);
    CHECK(answer == NULL && margay_last_error_status() == asking->status);
    return NULL;
}

static char *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    char *text = calloc(1, 1 << 16);
    CHECK(fread(text, 1, (1 << 16) - 1, file) > 0);
    fclose(file);
    return text;
}

int main(int count, char **arguments) {
    CHECK(count == 7);
    const char *endpoint = arguments[3], *expected = arguments[5];
    CHECK(strlen(margay_version()) >= 5 && margay_last_error_status() == MARGAY_STATUS_OK);

    margay_bundle *bundle = NULL;
    OK(margay_bundle_open(arguments[1], NULL, &bundle));
    margay_bundle_info about = {.size = sizeof about};
    OK(margay_bundle_read(bundle, &about));
    CHECK(strcmp(about.name, "toy") == 0 && about.vocabulary_size == 320 && about.has_policy && about.signer_count == 0);
    CHECK(strlen(about.model_digest) >= 64);

    margay_device_options device = {.size = sizeof device, .threads = 1};
    margay_engine *engine = NULL;
    OK(margay_engine_load(bundle, &device, &engine));
    engine_alone(engine, expected);

    char *authority = read_file(arguments[4]);
    struct app app = {0};
    sem_init(&app.asked, 0, 0);
    margay_cloud_options with_cloud = {
        .size = sizeof with_cloud, .endpoint = endpoint, .model = "large", .provide_token = provide_token,
        .redact = redact, .redact_patterns = true, .user_data = &app, .destroy_user_data = destroy_app,
        .roots_pem = authority, .attempts = 1};
    margay_cloud *cloud = NULL;
    OK(margay_cloud_create(&with_cloud, &cloud));
    free(authority);
    margay_cascade *cascade = NULL, *strict = NULL;
    OK(margay_cascade_create(engine, cloud, NULL, &cascade));
    margay_cascade_options fail = {.size = sizeof fail, .on_cloud_failure = MARGAY_ON_CLOUD_FAILURE_FAIL};
    OK(margay_cascade_create(engine, cloud, &fail, &strict));

    /* The device is sure: nobody is asked. */
    margay_request *sure = request_for("keep", 12, QUESTION), *unsure = request_for(NULL, 12, QUESTION);
    margay_answer *answer = NULL;
    OK(margay_cascade_answer(cascade, sure, &answer));
    margay_answer_info info = info_of(answer);
    CHECK(info.origin == MARGAY_ORIGIN_LOCAL && strcmp(info.text, expected) == 0 && info.reason == NULL);
    CHECK(info.has_score && info.score >= info.threshold && strcmp(info.rule, "chow-average") == 0);
    CHECK(info.local_output_tokens == 12 && info.cloud_error == MARGAY_STATUS_OK && app.tokens_given == 0);
    CHECK(strcmp(info.model_digest, about.model_digest) == 0);
    OK(margay_answer_destroy(answer));

    /* It is not, but may not ask. */
    OK(margay_cascade_answer_local(cascade, unsure, &answer));
    info = info_of(answer);
    CHECK(info.origin == MARGAY_ORIGIN_LOCAL && strcmp(info.reason, "local-only") == 0 && app.tokens_given == 0);
    OK(margay_answer_destroy(answer));

    /* What a file says, without callbacks. */
    margay_cascade *configured = NULL;
    margay_request *hello = request_for(NULL, 12, "hello");
    FAILS(NULL_ARGUMENT, margay_cascade_configure(engine, NULL, &configured));
    FAILS(IO, margay_cascade_configure(engine, "nowhere.toml", &configured));
    FAILS(CONFIGURATION, margay_cascade_configure(engine, arguments[4], &configured));
    OK(margay_cascade_configure(engine, arguments[6], &configured));
    OK(margay_cascade_answer(configured, hello, &answer));
    info = info_of(answer);
    CHECK(info.origin == MARGAY_ORIGIN_CLOUD && strcmp(info.text, "as the file says") == 0 && app.tokens_given == 0);
    OK(margay_answer_destroy(answer));
    OK(margay_cascade_destroy(configured));
    OK(margay_request_destroy(hello));

    /* It asks: the first token is refused, the second is not; name and address are out on the way and back in the answer. */
    OK(margay_cascade_answer(cascade, unsure, &answer));
    info = info_of(answer);
    CHECK(info.origin == MARGAY_ORIGIN_CLOUD && strcmp(info.text, "hello Ada Lovelace, ada@example.com") == 0);
    CHECK(strcmp(info.reason, "early-low-confidence") == 0 && info.score < info.threshold);
    CHECK(info.cloud_input_tokens == 3 && info.cloud_output_tokens == 2 && strcmp(info.finish_reason, "stop") == 0);
    CHECK(app.tokens_given == 2 && app.tokens_renewed == 1 && app.texts > 0);
    OK(margay_answer_destroy(answer));

    /* It streams what it wrote, takes it back, and the cloud's answer follows. */
    margay_request *late = request_for("late", 12, QUESTION);
    struct heard heard = {.cascade = cascade, .request = sure};
    OK(margay_cascade_stream(cascade, late, MARGAY_STREAM_OPTIMISTIC, on_event, &heard, &answer));
    info = info_of(answer);
    CHECK(heard.superseded == 1 && heard.tokens > 3 && strcmp(heard.text, "book a flight") == 0);
    CHECK(strcmp(info.text, heard.text) == 0 && info.origin == MARGAY_ORIGIN_CLOUD);
    OK(margay_answer_destroy(answer));

    /* The callback breaks off. */
    heard = (struct heard){.superseded = 1, .break_after = 2, .cascade = cascade, .request = sure};
    FAILS(CANCELLED, margay_cascade_stream(cascade, unsure, MARGAY_STREAM_HOLD, on_event, &heard, &answer));
    CHECK(strcmp(margay_last_error_partial_text(), "book a") == 0);

    /* The stream is cut after its first piece: the error has that piece, and nothing else is tried. */
    heard = (struct heard){.superseded = 1, .cascade = cascade, .request = sure};
    margay_status cut = margay_cascade_stream(cascade, unsure, MARGAY_STREAM_HOLD, on_event, &heard, &answer);
    CHECK(cut == MARGAY_STATUS_TRUNCATED || cut == MARGAY_STATUS_CONNECT);
    CHECK(strcmp(margay_last_error_partial_text(), "book ") == 0 && margay_last_error_is_transient());

    /* The server fails: an error, or the device's answer with the error beside it. */
    FAILS(SERVER, margay_cascade_answer(strict, unsure, &answer));
    OK(margay_cascade_answer(cascade, unsure, &answer));
    info = info_of(answer);
    CHECK(info.origin == MARGAY_ORIGIN_LOCAL && info.cloud_error == MARGAY_STATUS_SERVER);
    CHECK(strlen(info.cloud_error_message) > 0 && strcmp(info.text, expected) == 0);
    OK(margay_answer_destroy(answer));

    /* The app has no token, or cannot redact: then everything is taken out. */
    app.fail_token = 1;
    FAILS(UNAUTHORIZED, margay_cascade_answer(strict, unsure, &answer));
    CHECK(strstr(margay_last_error_message(), "token provider failed with 7") != NULL);
    app.fail_token = 0, app.fail_redaction = 1;
    OK(margay_cascade_answer(strict, unsure, &answer));
    CHECK(strcmp(info_of(answer).text, QUESTION) == 0);
    OK(margay_answer_destroy(answer));
    app.fail_redaction = 0;

    /* The cloud says nothing; another thread cancels. */
    while (sem_trywait(&app.asked) == 0) {}
    struct asking asking = {.cascade = strict, .request = unsure};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, ask, &asking) == 0);
    sem_wait(&app.asked);
    OK(margay_request_cancel(unsure));
    CHECK(pthread_join(thread, NULL) == 0 && asking.status == MARGAY_STATUS_CANCELLED);
    FAILS(CANCELLED, margay_cascade_answer(cascade, unsure, &answer));

    misuse(bundle, engine, cascade, arguments[2]);

    OK(margay_request_destroy(sure));
    OK(margay_request_destroy(unsure));
    OK(margay_request_destroy(late));
    OK(margay_bundle_destroy(bundle));
    OK(margay_engine_destroy(engine));
    OK(margay_cloud_destroy(cloud));
    CHECK(app.destroyed == 0); /* the cascades still have it */
    OK(margay_cascade_destroy(strict));
    OK(margay_cascade_destroy(cascade));
    CHECK(app.destroyed == 1);
    FAILS(INVALID_HANDLE, margay_cascade_answer(cascade, late, &answer));
    FAILS(INVALID_HANDLE, margay_cascade_destroy(cascade));
    sem_destroy(&app.asked);
    puts("everything held");
    return 0;
}

struct written {
    char text[4096];
    int tokens, break_after, cancel_after;
    margay_engine *engine;
    margay_request *request;
    sem_t reached, cancelled;
};

static int on_token(void *user_data, const margay_token *token) {
    struct written *written = user_data;
    CHECK(token->size == sizeof *token && token->log_probability <= 0 && token->entropy >= 0 && token->margin >= 0);
    strcat(written->text, token->text);
    written->tokens += !token->is_stop;
    margay_generation *again = NULL;
    CHECK(margay_engine_generate(written->engine, written->request, NULL, NULL, &again) == MARGAY_STATUS_IN_CALLBACK);
    if (written->cancel_after && written->tokens == written->cancel_after) {
        sem_post(&written->reached);
        sem_wait(&written->cancelled);
    }
    return written->break_after && written->tokens >= written->break_after;
}

static void *cancel_when_reached(void *user_data) {
    struct written *written = user_data;
    sem_wait(&written->reached);
    OK(margay_request_cancel(written->request));
    sem_post(&written->cancelled);
    return NULL;
}

static int past_the_deadline(void *user_data, const margay_token *token) {
    struct timespec *until = user_data, now;
    (void)token;
    do {
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < until->tv_sec || (now.tv_sec == until->tv_sec && now.tv_nsec < until->tv_nsec));
    return 0;
}

static void engine_alone(margay_engine *engine, const char *expected) {
    margay_request *request = request_for("keep", 12, QUESTION);
    struct written written = {.engine = engine, .request = request};
    margay_generation *generation = NULL;
    OK(margay_engine_generate(engine, request, on_token, &written, &generation));
    margay_generation_info info = {.size = sizeof info};
    OK(margay_generation_read(generation, &info));
    CHECK(strcmp(info.text, expected) == 0 && strcmp(written.text, expected) == 0);
    CHECK(info.verdict == MARGAY_VERDICT_KEEP && info.answer_tokens == 12 && strcmp(info.finish, "length") == 0);
    CHECK(!info.has_seed && info.prompt_tokens > 0 && info.decode_ns > 0);
    OK(margay_generation_destroy(generation));

    /* Sampled twice with one seed. */
    const char *stop[] = {"never said"};
    margay_request_options sampled = {.size = sizeof sampled, .task = "keep", .max_tokens = 8, .temperature = 1.0f,
                                      .top_k = 20, .seed = 7, .has_seed = true, .stop = stop, .stop_count = 1};
    char first[4096];
    for (int turn = 0; turn < 2; turn++) {
        margay_request *drawn = NULL;
        OK(margay_request_create(&sampled, &drawn));
        OK(margay_request_add_message(drawn, "system", "be brief"));
        OK(margay_request_add_message(drawn, "user", "hello"));
        OK(margay_engine_generate(engine, drawn, NULL, NULL, &generation));
        OK(margay_generation_read(generation, &info));
        CHECK(info.has_seed && info.seed == 7 && (turn == 0 || strcmp(first, info.text) == 0));
        strcpy(first, info.text);
        OK(margay_generation_destroy(generation));
        OK(margay_request_destroy(drawn));
    }

    /* Bound to a schema. */
    margay_request_options bound = {.size = sizeof bound, .json_schema = "{\"enum\": [7]}"};
    margay_request *number = NULL;
    OK(margay_request_create(&bound, &number));
    OK(margay_request_add_message(number, "user", "hello"));
#ifdef CONSTRAINED
    OK(margay_engine_generate(engine, number, NULL, NULL, &generation));
    OK(margay_generation_read(generation, &info));
    CHECK(strcmp(info.text, "7") == 0);
    OK(margay_generation_destroy(generation));
#else
    FAILS(INVALID_REQUEST, margay_engine_generate(engine, number, NULL, NULL, &generation));
#endif
    OK(margay_request_destroy(number));
    bound.regex = "[0-9]";
    FAILS(INVALID_REQUEST, margay_request_create(&bound, &number));
    bound = (margay_request_options){.size = sizeof bound, .json_schema = "{"};
    FAILS(INVALID_REQUEST, margay_request_create(&bound, &number));

    /* Broken off by the callback: what there is. */
    written = (struct written){.engine = engine, .request = request, .break_after = 2};
    OK(margay_engine_generate(engine, request, on_token, &written, &generation));
    OK(margay_generation_read(generation, &info));
    CHECK(strcmp(info.finish, "caller") == 0 && info.answer_tokens == 2);
    OK(margay_generation_destroy(generation));

    /* One of given answers. */
    const char *answers[] = {"alarm", "weather", "music"};
    margay_scored_answer scores[3];
    size_t best = 99;
    OK(margay_engine_choose(engine, request, answers, 3, NULL, scores, &best));
    double sum = 0, most = scores[0].log_likelihood;
    for (int i = 0; i < 3; i++) {
        sum += scores[i].probability;
        most = scores[i].log_likelihood > most ? scores[i].log_likelihood : most;
    }
    CHECK(best < 3 && scores[best].log_likelihood == most && sum > 0.999 && sum < 1.001);
    margay_choose_options by_bytes = {.size = sizeof by_bytes, .normalise = MARGAY_NORMALISE_BYTES, .with_stop_token = true};
    OK(margay_engine_choose(engine, request, answers, 3, &by_bytes, NULL, &best));
    by_bytes.normalise = 3;
    FAILS(INVALID_REQUEST, margay_engine_choose(engine, request, answers, 3, &by_bytes, NULL, &best));
    FAILS(INVALID_REQUEST, margay_engine_choose(engine, request, answers, 0, NULL, NULL, &best));
    FAILS(NULL_ARGUMENT, margay_engine_choose(engine, request, answers, 3, NULL, NULL, NULL));
    FAILS(NULL_ARGUMENT, margay_engine_choose(engine, request, NULL, 3, NULL, NULL, &best));

    /* Past its deadline. */
    margay_request_options hurried = {.size = sizeof hurried, .task = "keep", .deadline_ms = 2000};
    margay_request *hurry = NULL;
    OK(margay_request_create(&hurried, &hurry));
    OK(margay_request_add_message(hurry, "user", "hello"));
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 3;
    FAILS(DEADLINE, margay_engine_generate(engine, hurry, past_the_deadline, &until, &generation));
    OK(margay_request_destroy(hurry));

    /* Cancelled by another thread in the midst of its answer. */
    written = (struct written){.engine = engine, .request = request, .cancel_after = 2};
    sem_init(&written.reached, 0, 0);
    sem_init(&written.cancelled, 0, 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, cancel_when_reached, &written) == 0);
    FAILS(CANCELLED, margay_engine_generate(engine, request, on_token, &written, &generation));
    CHECK(pthread_join(thread, NULL) == 0 && written.tokens < 12);
    sem_destroy(&written.reached);
    sem_destroy(&written.cancelled);
    OK(margay_request_destroy(request));
}

static void misuse(margay_bundle *bundle, margay_engine *engine, margay_cascade *cascade, const char *plain) {
    const char *latin = "caf\xe9";
    margay_bundle *other = NULL;
    margay_engine *loaded = NULL;
    margay_request *request = NULL;
    margay_generation *generation = NULL;
    margay_cloud *cloud = NULL;
    margay_cascade *without = NULL;
    margay_answer *answer = NULL;

    /* NULL, for each argument that may not be. */
    FAILS(NULL_ARGUMENT, margay_bundle_open(NULL, NULL, &other));
    FAILS(NULL_ARGUMENT, margay_bundle_open(plain, NULL, NULL));
    FAILS(NULL_ARGUMENT, margay_bundle_read(NULL, NULL));
    FAILS(NULL_ARGUMENT, margay_bundle_read(bundle, NULL));
    FAILS(NULL_ARGUMENT, margay_engine_load(NULL, NULL, &loaded));
    FAILS(NULL_ARGUMENT, margay_engine_generate(NULL, NULL, NULL, NULL, &generation));
    FAILS(NULL_ARGUMENT, margay_engine_generate(engine, NULL, NULL, NULL, &generation));
    FAILS(NULL_ARGUMENT, margay_request_create(NULL, NULL));
    FAILS(NULL_ARGUMENT, margay_request_add_message(NULL, "user", "hello"));
    FAILS(NULL_ARGUMENT, margay_request_cancel(NULL));
    FAILS(NULL_ARGUMENT, margay_cloud_create(NULL, &cloud));
    FAILS(NULL_ARGUMENT, margay_cascade_create(engine, NULL, NULL, &without));
    FAILS(NULL_ARGUMENT, margay_cascade_create(NULL, NULL, NULL, &without));
    FAILS(NULL_ARGUMENT, margay_cascade_answer(NULL, NULL, &answer));
    FAILS(NULL_ARGUMENT, margay_cascade_stream(cascade, NULL, 0, NULL, NULL, &answer));
    FAILS(NULL_ARGUMENT, margay_cascade_answer_local(cascade, NULL, &answer));
    FAILS(NULL_ARGUMENT, margay_answer_read(NULL, NULL));
    FAILS(NULL_ARGUMENT, margay_generation_read(NULL, NULL));
    OK(margay_bundle_destroy(NULL));
    OK(margay_engine_destroy(NULL));
    OK(margay_request_destroy(NULL));
    OK(margay_generation_destroy(NULL));
    OK(margay_cloud_destroy(NULL));
    OK(margay_cascade_destroy(NULL));
    OK(margay_answer_destroy(NULL));

    /* Texts that are not UTF-8. */
    FAILS(INVALID_UTF8, margay_bundle_open(latin, NULL, &other));
    CHECK(strcmp(margay_last_error_message(), "path is not UTF-8 after 3 bytes") == 0);
    OK(margay_request_create(NULL, &request));
    FAILS(INVALID_UTF8, margay_request_add_message(request, latin, "hello"));
    FAILS(INVALID_UTF8, margay_request_add_message(request, "user", latin));
    FAILS(NULL_ARGUMENT, margay_request_add_message(request, "user", NULL));
    size_t best = 0;
    FAILS(INVALID_UTF8, margay_engine_choose(engine, request, &latin, 1, NULL, NULL, &best));
    margay_request_options options = {.size = sizeof options, .task = latin};
    margay_request *never = NULL;
    FAILS(INVALID_UTF8, margay_request_create(&options, &never));

    /* Values that make no sense. */
    options = (margay_request_options){.size = sizeof options, .temperature = -1.0f};
    FAILS(INVALID_REQUEST, margay_request_create(&options, &never));
    const char *empty = "";
    options = (margay_request_options){.size = sizeof options, .stop = &empty, .stop_count = 1};
    FAILS(INVALID_REQUEST, margay_request_create(&options, &never));
    CHECK(never == NULL);
    OK(margay_request_add_message(request, "user", "hello"));
    FAILS(INVALID_REQUEST, margay_cascade_stream(cascade, request, 2, NULL, NULL, &answer));
    const char *providers[] = {"abacus"};
    margay_device_options device = {.size = sizeof device, .providers = providers, .provider_count = 1};
    FAILS(INVALID_REQUEST, margay_engine_load(bundle, &device, &loaded));
    device = (margay_device_options){.size = sizeof device, .memory_cap = 1};
    FAILS(MEMORY, margay_engine_load(bundle, &device, &loaded));
    device = (margay_device_options){.size = sizeof device, .library = "/nowhere/libonnxruntime.so"};
    FAILS(LIBRARY, margay_engine_load(bundle, &device, &loaded));
    struct app app = {0};
    margay_cloud_options over_http = {.size = sizeof over_http, .endpoint = "http://127.0.0.1/v1", .model = "large",
                                      .user_data = &app, .destroy_user_data = destroy_app};
    FAILS(INVALID_REQUEST, margay_cloud_create(&over_http, &cloud));
    CHECK(app.destroyed == 1 && cloud == NULL);
    over_http.endpoint = "https://127.0.0.1/v1", over_http.roots_pem = "no certificate";
    FAILS(TLS, margay_cloud_create(&over_http, &cloud));
    over_http.roots_pem = NULL, over_http.dialect = 9;
    FAILS(INVALID_REQUEST, margay_cloud_create(&over_http, &cloud));
    CHECK(app.destroyed == 3);

    /* Files that are not what they should be. */
    FAILS(IO, margay_bundle_open("/nowhere", NULL, &other));
    const char *key = "not a key";
    margay_bundle_options signed_by = {.size = sizeof signed_by, .trusted_keys = &key, .trusted_key_count = 1};
    FAILS(SIGNATURE, margay_bundle_open(plain, &signed_by, &other));
    /* The key of RFC 8032's first test, with which nobody has signed it. */
    key = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    signed_by = (margay_bundle_options){.size = sizeof signed_by, .trusted_keys = &key, .trusted_key_count = 1, .require_signature = true};
    FAILS(SIGNATURE, margay_bundle_open(plain, &signed_by, &other));
    OK(margay_bundle_open(plain, NULL, &other));
    device = (margay_device_options){.size = sizeof device, .threads = 1};
    OK(margay_engine_load(other, &device, &loaded));
    margay_cloud_options options_of_cloud = {.size = sizeof options_of_cloud, .endpoint = "https://127.0.0.1/v1", .model = "large"};
    OK(margay_cloud_create(&options_of_cloud, &cloud));
    FAILS(INVALID_REQUEST, margay_cascade_create(loaded, cloud, NULL, &without));
    CHECK(strstr(margay_last_error_message(), "no policy") != NULL);
    OK(margay_engine_generate(loaded, request, NULL, NULL, &generation));
    margay_generation_info info = {.size = sizeof info};
    OK(margay_generation_read(generation, &info));
    CHECK(info.verdict == MARGAY_VERDICT_NONE && info.reason == NULL);

    /* Structs of no version. */
    for (size_t wrong = 0; wrong < 3; wrong++) {
        size_t size = (size_t[]){0, sizeof info - 1, sizeof info + 8}[wrong];
        margay_generation_info bad = {.size = size};
        FAILS(WRONG_SIZE, margay_generation_read(generation, &bad));
        CHECK(bad.text == NULL);
    }
    options = (margay_request_options){.size = 4};
    FAILS(WRONG_SIZE, margay_request_create(&options, &never));
    device.size = 1;
    FAILS(WRONG_SIZE, margay_engine_load(other, &device, &loaded));
    options_of_cloud.size = SIZE_MAX;
    FAILS(WRONG_SIZE, margay_cloud_create(&options_of_cloud, &cloud));

    /* Handles of another kind, and after their end. */
    FAILS(INVALID_HANDLE, margay_bundle_read((margay_bundle *)(void *)engine, NULL));
    FAILS(INVALID_HANDLE, margay_engine_destroy((margay_engine *)(void *)other));
    FAILS(INVALID_HANDLE, margay_request_cancel((margay_request *)(void *)&info));
    OK(margay_bundle_destroy(other));
    OK(margay_engine_destroy(loaded));
    OK(margay_request_destroy(request));
    OK(margay_generation_destroy(generation));
    OK(margay_cloud_destroy(cloud));
    margay_bundle_info about = {.size = sizeof about};
    FAILS(INVALID_HANDLE, margay_bundle_read(other, &about));
    FAILS(INVALID_HANDLE, margay_bundle_destroy(other));
    FAILS(INVALID_HANDLE, margay_engine_load(other, NULL, &loaded));
    FAILS(INVALID_HANDLE, margay_engine_generate(loaded, request, NULL, NULL, &generation));
    FAILS(INVALID_HANDLE, margay_engine_generate(engine, request, NULL, NULL, &generation));
    FAILS(INVALID_HANDLE, margay_request_cancel(request));
    FAILS(INVALID_HANDLE, margay_generation_read(generation, &info));
    FAILS(INVALID_HANDLE, margay_generation_destroy(generation));
    FAILS(INVALID_HANDLE, margay_cascade_create(engine, cloud, NULL, &without));
    CHECK(strcmp(margay_status_name(MARGAY_STATUS_INVALID_HANDLE), "invalid-handle") == 0);
    CHECK(strcmp(margay_status_name(-5), "unknown") == 0);
}
