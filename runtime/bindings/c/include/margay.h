/* Margay: a small language model on the device that knows when to ask a large one.
 *
 * Made by cbindgen from runtime/bindings/c: change it there.
 *
 * Handles (`margay_bundle *` and so on) are made by functions that end in _create, _open or _load, or that give an
 * answer, and ended by the function of the same kind that ends in _destroy, once. They are numbers that are never used
 * twice and never followed: a handle that was destroyed is refused with MARGAY_STATUS_INVALID_HANDLE. Any handle may be used
 * from any thread, also from several at once, and destroyed while another thread uses it.
 *
 * Pointers that are not handles must be valid while the function runs; texts are UTF-8 and end with a NUL; those that
 * may be NULL say so, any other NULL is MARGAY_STATUS_NULL_ARGUMENT. Nothing that is passed in is kept, but for callbacks and
 * the user data of margay_cloud_options.
 *
 * Structs begin with `size`, which the caller sets to their sizeof: a library knows its own version of a struct and all
 * older ones, and refuses others with MARGAY_STATUS_WRONG_SIZE. All other fields may be zero, which is the default:
 *
 *     margay_request_options options = {.size = sizeof options, .max_tokens = 64};
 *
 * Every function returns MARGAY_STATUS_OK or why not, and then margay_last_error_message() has it in words, on the same thread.
 * Callbacks must not throw, and must not ask a model: that is refused with MARGAY_STATUS_IN_CALLBACK. */

#ifndef MARGAY_H
#define MARGAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Whether a call succeeded, and if not, what kind of failure it was. The numbers never change; newer libraries may have more of
// them.
enum margay_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // It succeeded.
  MARGAY_STATUS_OK = 0,
  // ONNX Runtime's library is missing, too old or does not load.
  MARGAY_STATUS_LIBRARY = 1,
  // A file could not be read or written.
  MARGAY_STATUS_IO = 2,
  // A bundle is not what it claims: malformed, incomplete, over a size cap.
  MARGAY_STATUS_BUNDLE = 3,
  // A digest does not match: a file was changed, or a policy belongs to another model.
  MARGAY_STATUS_DIGEST = 4,
  // A bundle's signature is wrong, missing, or by a key that is not trusted.
  MARGAY_STATUS_SIGNATURE = 5,
  // The request or an option cannot be served as it stands: the caller's mistake.
  MARGAY_STATUS_INVALID_REQUEST = 6,
  // Prompt and answer do not fit the model's context.
  MARGAY_STATUS_CONTEXT_OVERFLOW = 7,
  // ONNX Runtime failed while running the graph.
  MARGAY_STATUS_INFERENCE = 8,
  // The request's deadline passed.
  MARGAY_STATUS_DEADLINE = 9,
  // The caller cancelled the request, or its callback broke off.
  MARGAY_STATUS_CANCELLED = 10,
  // The cloud could not be reached. Safe to retry later.
  MARGAY_STATUS_CONNECT = 11,
  // The cloud's certificate was refused, or the TLS handshake failed.
  MARGAY_STATUS_TLS = 12,
  // The cloud says who we are is not good enough (401, 403), or there is no token.
  MARGAY_STATUS_UNAUTHORIZED = 13,
  // The cloud refused the request (another 4xx).
  MARGAY_STATUS_REJECTED = 14,
  // The cloud is asking us to slow down (429).
  MARGAY_STATUS_RATE_LIMITED = 15,
  // The cloud failed (5xx).
  MARGAY_STATUS_SERVER = 16,
  // The cloud's answer is not one.
  MARGAY_STATUS_MALFORMED = 17,
  // The cloud's answer ended before it was complete: see `margay_last_error_partial_text`.
  MARGAY_STATUS_TRUNCATED = 18,
  // Asking the cloud would cost more than is left of the budget.
  MARGAY_STATUS_BUDGET = 19,
  // As many requests as may wait for an engine do.
  MARGAY_STATUS_QUEUE_FULL = 20,
  // Model or request need more memory than the options allow.
  MARGAY_STATUS_MEMORY = 21,
  // An execution provider that is required is missing or does not run the model.
  MARGAY_STATUS_PROVIDER = 22,
  // A configuration is malformed or makes no sense.
  MARGAY_STATUS_CONFIGURATION = 23,
  // A store on disk is damaged, held by another process or of another version.
  MARGAY_STATUS_STORE = 24,
  // A pointer that may not be NULL is.
  MARGAY_STATUS_NULL_ARGUMENT = 100,
  // A text is not UTF-8.
  MARGAY_STATUS_INVALID_UTF8 = 101,
  // A handle was destroyed before, or is of another kind, or never was one.
  MARGAY_STATUS_INVALID_HANDLE = 102,
  // The `size` of a struct is that of no version that this library knows.
  MARGAY_STATUS_WRONG_SIZE = 103,
  // A function that asks a model was called inside a callback.
  MARGAY_STATUS_IN_CALLBACK = 104,
  // A defect of the library, caught before it could do harm: please report it.
  MARGAY_STATUS_PANIC = 198,
  // A failure of a kind that this interface does not know.
  MARGAY_STATUS_UNKNOWN = 199,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum margay_status margay_status;
#else
typedef int32_t margay_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What becomes of the small model's answer.
enum margay_verdict
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The bundle has no policy.
  MARGAY_VERDICT_NONE = 0,
  // It is good enough.
  MARGAY_VERDICT_KEEP = 1,
  // The large model should answer.
  MARGAY_VERDICT_DEFER = 2,
  // There is no answer that could be trusted.
  MARGAY_VERDICT_ABSTAIN = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum margay_verdict margay_verdict;
#else
typedef int32_t margay_verdict;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What an event is.
enum margay_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // More text.
  MARGAY_EVENT_KIND_TOKEN = 0,
  // What came so far is not the answer: forget it.
  MARGAY_EVENT_KIND_SUPERSEDED = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum margay_event_kind margay_event_kind;
#else
typedef int32_t margay_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Who wrote an answer.
enum margay_origin
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The small model on the device.
  MARGAY_ORIGIN_LOCAL = 0,
  // The large model.
  MARGAY_ORIGIN_CLOUD = 1,
  // Nobody yet: the prompt waits in the outbox.
  MARGAY_ORIGIN_QUEUED = 2,
  // Nobody: the device was unsure, and nobody else could or might be asked.
  MARGAY_ORIGIN_ABSTAINED = 3,
  // Somebody that this interface does not know.
  MARGAY_ORIGIN_UNKNOWN = 99,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum margay_origin margay_origin;
#else
typedef int32_t margay_origin;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What is shown of the device's answer before it is known whether it stands.
enum margay_stream
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Nothing: the first text comes with the verdict, and stands.
  MARGAY_STREAM_HOLD = 0,
  // All of it; if the query is deferred, `MARGAY_EVENT_KIND_SUPERSEDED` takes it back.
  MARGAY_STREAM_OPTIMISTIC = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum margay_stream margay_stream;
#else
typedef int32_t margay_stream;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What becomes of a query that the device is unsure of when the cloud fails or must not be asked.
enum margay_on_cloud_failure
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The device's answer, with reason and error beside it.
  MARGAY_ON_CLOUD_FAILURE_FALL_BACK_TO_LOCAL = 0,
  // No answer, with reason and error beside it.
  MARGAY_ON_CLOUD_FAILURE_ABSTAIN = 1,
  // The error itself.
  MARGAY_ON_CLOUD_FAILURE_FAIL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum margay_on_cloud_failure margay_on_cloud_failure;
#else
typedef int32_t margay_on_cloud_failure;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Whose API a server speaks.
enum margay_dialect
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // OpenAI's chat completions, which most servers speak.
  MARGAY_DIALECT_OPEN_AI = 0,
  // Anthropic's Messages.
  MARGAY_DIALECT_ANTHROPIC = 1,
  // Google's Gemini.
  MARGAY_DIALECT_GEMINI = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum margay_dialect margay_dialect;
#else
typedef int32_t margay_dialect;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What an answer's log-likelihood is divided by.
enum margay_normalise
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Nothing.
  MARGAY_NORMALISE_NOT = 0,
  // Its number of tokens.
  MARGAY_NORMALISE_TOKENS = 1,
  // Its length in bytes.
  MARGAY_NORMALISE_BYTES = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum margay_normalise margay_normalise;
#else
typedef int32_t margay_normalise;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// An answer of a cascade.
typedef struct margay_answer margay_answer;

// A verified bundle.
typedef struct margay_bundle margay_bundle;

// A small model with a large one behind it.
typedef struct margay_cascade margay_cascade;

// A large model behind HTTPS.
typedef struct margay_cloud margay_cloud;

// A loaded model. It answers one request at a time, from any thread; others wait for their turn.
typedef struct margay_engine margay_engine;

// What an engine wrote.
typedef struct margay_generation margay_generation;

// One text on its way to the cloud; valid during the callback that it is given to, on its thread.
typedef struct margay_redaction margay_redaction;

// One question: messages, limits and options. It may be asked several times, one after the other or at once.
typedef struct margay_request margay_request;

// Where a token provider puts its token; valid during the callback that it is given to, on its thread.
typedef struct margay_token_place margay_token_place;

// Who must vouch for a bundle. All zero but `size` is anybody.
typedef struct margay_bundle_options {
  // `sizeof(margay_bundle_options)`.
  size_t size;
  // Keys whose signatures count, each as `margay bundle` prints it.
  const char *const *trusted_keys;
  // How many.
  size_t trusted_key_count;
  // Whether one of them must have signed.
  bool require_signature;
  // Where an archive is extracted; NULL is the cache folder.
  const char *cache;
} margay_bundle_options;

// What a bundle says of itself. Texts are valid until the bundle is destroyed.
typedef struct margay_bundle_info {
  // `sizeof(margay_bundle_info)`, set by the caller.
  size_t size;
  // Its name.
  const char *name;
  // Digest of its model, to which thresholds are bound.
  const char *model_digest;
  // Longest prompt and answer together, in tokens.
  size_t context_length;
  // Entries of the vocabulary.
  size_t vocabulary_size;
  // Trained parameters.
  uint64_t parameters;
  // Whether it has a calibrated policy, without which no cascade can be made of it.
  bool has_policy;
  // How many trusted keys have signed it.
  size_t signer_count;
} margay_bundle_info;

// How a question is to be answered. All zero but `size` is: greedily, 256 tokens at most, no deadline.
typedef struct margay_request_options {
  // `sizeof(margay_request_options)`.
  size_t size;
  // Which threshold applies; NULL is the policy's default task.
  const char *task;
  // Longest answer, in tokens; 0 is 256.
  size_t max_tokens;
  // Milliseconds that the whole query may take, cloud included, from when it is asked; 0 is no deadline.
  uint64_t deadline_ms;
  // Logits are divided by it; 0 takes the likeliest token.
  float temperature;
  // Only the likeliest tokens that together have this probability; 0 is all.
  float top_p;
  // Only tokens at least this many times as likely as the likeliest; 0 is all.
  float min_p;
  // How much less likely tokens become that were there before; 0 is not at all, as is 1.
  float repetition_penalty;
  // Only so many of the likeliest tokens; 0 is all.
  size_t top_k;
  // Where random numbers begin, if `has_seed`.
  uint64_t seed;
  // Whether `seed` counts; else every answer has a new one.
  bool has_seed;
  // Texts that end the answer.
  const char *const *stop;
  // How many.
  size_t stop_count;
  // Forget the middle of a conversation that outgrows the context, instead of refusing it.
  bool slide;
  // Tokens at the beginning that are never forgotten, if `slide`.
  size_t slide_keep;
  // The messages' contents are the prompt as they are: no chat template.
  bool raw_prompt;
  // May go to the cloud, but is never written down.
  bool transient;
  // Which budget limits apply beside the total ones; NULL is only those.
  const char *budget_class;
  // What lets the cloud recognise a repeated question; NULL is a new key for every one.
  const char *idempotency_key;
  // A JSON schema that the device's answer obeys; NULL is none. Needs a library built with the feature `constrained`.
  const char *json_schema;
  // A regular expression that the device's answer matches from beginning to end, likewise.
  const char *regex;
} margay_request_options;

// What the model may use of the device. All zero but `size` is the CPU with a thread for each core.
typedef struct margay_device_options {
  // `sizeof(margay_device_options)`.
  size_t size;
  // ONNX Runtime's shared library; NULL is the one loaded already, else `ORT_DYLIB_PATH`, else the one in the cache folder.
  const char *library;
  // Threads that compute one step; 0 is one for each core.
  size_t threads;
  // Most bytes for weights, key-values and what is kept of earlier prompts; 0 is no cap.
  uint64_t memory_cap;
  // Requests that may wait for their turn; 0 is 64.
  size_t queue;
  // Execution providers, the most wanted first, e.g. `"coreml"`; those that were compiled in. The CPU need not be named.
  const char *const *providers;
  // How many.
  size_t provider_count;
  // `"require"`, `"prefer"` or `"auto"`: what happens with a provider that is missing, fails or is slow; NULL is `"prefer"`.
  const char *provider_policy;
  // Where providers keep compiled models; NULL compiles at every start.
  const char *cache_dir;
  // Compute every prompt from its first token, so that the same request gives the same bits whatever was asked before.
  bool no_prefix_cache;
} margay_device_options;

// One token as it is written. Its texts together are the answer's.
typedef struct margay_token {
  // Size of this struct: newer libraries may have more behind.
  size_t size;
  // The text that is certain with it, perhaps empty; valid during the callback.
  const char *text;
  // Its bytes.
  size_t text_length;
  // The token.
  uint32_t id;
  // Its log-probability, in nats.
  float log_probability;
  // Log-probability of the likeliest token less that of the second.
  float margin;
  // Entropy of the distribution, in nats.
  float entropy;
  // Whether it is the stop token that ends the answer, which is no part of it.
  bool is_stop;
} margay_token;

// Takes a token; anything but 0 ends the answer there. It may not ask a model.
typedef int32_t (*margay_on_token)(void *user_data, const struct margay_token *token);

// What the model wrote, and how sure it was. Texts are valid until the generation is destroyed.
typedef struct margay_generation_info {
  // `sizeof(margay_generation_info)`, set by the caller.
  size_t size;
  // The answer.
  const char *text;
  // Its bytes.
  size_t text_length;
  // What the policy says of it.
  margay_verdict verdict;
  // Whether there is a score.
  bool has_score;
  // What the policy's rule says; higher means keep.
  float score;
  // What the score is held against.
  float threshold;
  // Why it is not kept, e.g. `low-confidence`; NULL if it is.
  const char *reason;
  // Why it ends: `stop`, `stop-string`, `length`, `early-deferral`, `caller` ...
  const char *finish;
  // Tokens of the prompt.
  size_t prompt_tokens;
  // How many of them were known from earlier prompts.
  size_t cached_tokens;
  // Tokens of the answer.
  size_t answer_tokens;
  // Where the random numbers began, if `has_seed`.
  uint64_t seed;
  // Whether random numbers were drawn.
  bool has_seed;
  // Nanoseconds that reading the prompt took.
  uint64_t prefill_ns;
  // Nanoseconds that writing took.
  uint64_t decode_ns;
} margay_generation_info;

// How likelihoods of answers are compared. All zero but `size` is: as they are.
typedef struct margay_choose_options {
  // `sizeof(margay_choose_options)`.
  size_t size;
  // One of `margay_normalise`.
  int32_t normalise;
  // Whether the answer must also end there.
  bool with_stop_token;
} margay_choose_options;

// How likely the model is to give one answer.
typedef struct margay_scored_answer {
  // In nats.
  double log_likelihood;
  // What answers are compared by.
  double score;
  // Its share among the answers given.
  double probability;
} margay_scored_answer;

// Gives the token for one exchange to `margay_token_give`: the present one, or a new one if `renewed`, because the server has
// just refused the present one. Returns 0, or anything else if there is none: the exchange then fails with
// `MARGAY_STATUS_UNAUTHORIZED`. Called on the thread that asks, which waits for it; it may not ask a model.
typedef int32_t (*margay_provide_token)(void *user_data, bool renewed, struct margay_token_place *place);

// Is shown a text of `length` bytes and takes out what must not leave, with `margay_redaction_take`. Returns 0, or anything else
// if it could not do its work: the whole text is taken out then. It may not ask a model.
typedef int32_t (*margay_redact)(void *user_data,
                                 const char *text,
                                 size_t length,
                                 struct margay_redaction *redaction);

// Ends what `user_data` points to.
typedef void (*margay_destroy_user_data)(void *user_data);

// The large model and the way to it. `endpoint` and `model` are required; the rest may be zero.
typedef struct margay_cloud_options {
  // `sizeof(margay_cloud_options)`.
  size_t size;
  // Base address, e.g. `https://api.example.com/v1`; HTTPS only.
  const char *endpoint;
  // The model's name there.
  const char *model;
  // One of `margay_dialect`.
  int32_t dialect;
  // Gives tokens, at any time while the cloud lives and from any thread that asks; NULL sends none.
  margay_provide_token provide_token;
  // Says what must not leave, likewise; NULL takes nothing out.
  margay_redact redact;
  // What both callbacks are given.
  void *user_data;
  // Called with `user_data` once nothing can call back any more, also if `margay_cloud_create` fails; may be NULL.
  margay_destroy_user_data destroy_user_data;
  // Take out e-mail addresses, card numbers, IBANs, IP addresses and phone numbers.
  bool redact_patterns;
  // Believe only the authorities in this PEM text; NULL is Mozilla's list.
  const char *roots_pem;
  // Believe the operating system's authorities instead of Mozilla's.
  bool platform_roots;
  // Pins of the server's public key, `sha256/...`.
  const char *const *pins;
  // How many.
  size_t pin_count;
  // Exchanges for one question at most; 0 is 3.
  uint32_t attempts;
  // Longest wait for a connection, in milliseconds; 0 is 10 seconds.
  uint64_t connect_timeout_ms;
  // Longest wait for one exchange, in milliseconds; 0 is 120 seconds.
  uint64_t attempt_timeout_ms;
} margay_cloud_options;

// How a cascade behaves. All zero but `size` is: fall back to the device's answer.
typedef struct margay_cascade_options {
  // `sizeof(margay_cascade_options)`.
  size_t size;
  // One of `margay_on_cloud_failure`.
  int32_t on_cloud_failure;
  // Failed queries in a row after which the cloud is left alone; 0 is 5.
  uint32_t breaker_failures;
  // For how long, in milliseconds; 0 is 30 seconds.
  uint64_t breaker_pause_ms;
} margay_cascade_options;

// One event of a streamed answer. The texts since the last `MARGAY_EVENT_KIND_SUPERSEDED` are the answer.
typedef struct margay_event {
  // Size of this struct: newer libraries may have more behind.
  size_t size;
  // What it is; newer libraries may have others, which can be ignored.
  margay_event_kind kind;
  // Whose text it is.
  margay_origin origin;
  // The text, valid during the callback; empty unless it is `MARGAY_EVENT_KIND_TOKEN`.
  const char *text;
  // Its bytes.
  size_t text_length;
  // Why the device's text does not stand, or NULL.
  const char *reason;
} margay_event;

// Takes an event, on the thread that asks; anything but 0 cancels the request. It may not ask a model.
typedef int32_t (*margay_on_event)(void *user_data, const struct margay_event *event);

// The end of a query: the text, who wrote it, and everything that led to it. Texts are valid until the answer is destroyed.
typedef struct margay_answer_info {
  // `sizeof(margay_answer_info)`, set by the caller.
  size_t size;
  // The answer; empty if nobody gives one.
  const char *text;
  // Its bytes.
  size_t text_length;
  // Who wrote it.
  margay_origin origin;
  // Whether there is a score.
  bool has_score;
  // The device's confidence by `rule`.
  float score;
  // What the score was held against.
  float threshold;
  // The rule behind score and threshold.
  const char *rule;
  // Why the device's answer did not simply stand, e.g. `low-confidence`; NULL if it did.
  const char *reason;
  // What the cloud failed with; `MARGAY_STATUS_OK` if it did not.
  margay_status cloud_error;
  // That failure in words; NULL if there was none.
  const char *cloud_error_message;
  // Why the large model's answer ends where it ends, in its server's word; NULL if it did not say.
  const char *finish_reason;
  // Tokens that the device read.
  uint64_t local_input_tokens;
  // Tokens that the device wrote.
  uint64_t local_output_tokens;
  // Tokens that the cloud says it read.
  uint64_t cloud_input_tokens;
  // Tokens that the cloud says it wrote.
  uint64_t cloud_output_tokens;
  // Tokens the device was spared by stopping early, at most.
  uint64_t saved_tokens;
  // Exchanges behind a cloud answer.
  uint32_t attempts;
  // Nanoseconds on the device, waiting for its turn included.
  uint64_t local_ns;
  // Nanoseconds waiting for the cloud, retries included; 0 if it was not asked.
  uint64_t cloud_ns;
  // Nanoseconds from the question to the answer.
  uint64_t total_ns;
  // The model on the device, to which score and threshold belong.
  const char *model_digest;
} margay_answer_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The status of the last call on this thread that failed; `MARGAY_STATUS_OK` if none did. Calls that succeed leave it as it is.
margay_status margay_last_error_status(void);

// What the last call on this thread that failed says, in one line for people; empty if none did. It names the file, field or
// address and holds no secret. Valid until the next call on this thread fails.
const char *margay_last_error_message(void);

// What was handed out of an answer before the last failure on this thread ended it; NULL if that was nothing. Valid until the
// next call on this thread fails.
const char *margay_last_error_partial_text(void);

// Whether the same request may succeed later without any change, as far as the last failure on this thread tells.
bool margay_last_error_is_transient(void);

// The version of the library, e.g. `0.1.0`.
const char *margay_version(void);

// The name of a status in lower case, e.g. `invalid-request`; `unknown` for a number that is none.
const char *margay_status_name(int32_t status);

// Opens the bundle at `path`, a folder or an archive, and verifies every file. `options` may be NULL.
margay_status margay_bundle_open(const char *path,
                                 const struct margay_bundle_options *options,
                                 struct margay_bundle **out);

// What the bundle says of itself.
margay_status margay_bundle_read(const struct margay_bundle *bundle, struct margay_bundle_info *out);

// Ends the handle; engines that were loaded from it live on. NULL is ignored.
margay_status margay_bundle_destroy(struct margay_bundle *bundle);

// A request without messages: add at least one. `options` may be NULL.
margay_status margay_request_create(const struct margay_request_options *options,
                                    struct margay_request **out);

// Adds a turn of `role` (`system`, `user`, `assistant`) to the conversation.
margay_status margay_request_add_message(struct margay_request *request,
                                         const char *role,
                                         const char *content);

// Stops the request, from any thread: whoever asks it gets `MARGAY_STATUS_CANCELLED` within one decode step, or at once if it waits
// for its turn or the cloud. A request that was cancelled stays so.
margay_status margay_request_cancel(const struct margay_request *request);

// Ends the handle; a call that is asking the request goes on. NULL is ignored.
margay_status margay_request_destroy(struct margay_request *request);

// Loads the bundle's model and lets it decode the bundle's canary. `options` may be NULL.
margay_status margay_engine_load(const struct margay_bundle *bundle,
                                 const struct margay_device_options *options,
                                 struct margay_engine **out);

// Answers `request` on the device, whatever the policy says of it. `on_token` may be NULL; what it breaks off is a generation
// all the same.
margay_status margay_engine_generate(const struct margay_engine *engine,
                                     const struct margay_request *request,
                                     margay_on_token on_token,
                                     void *user_data,
                                     struct margay_generation **out);

// What the model wrote.
margay_status margay_generation_read(const struct margay_generation *generation,
                                     struct margay_generation_info *out);

// Ends the handle. NULL is ignored.
margay_status margay_generation_destroy(struct margay_generation *generation);

// Ends the handle; cascades that were made of the engine live on. NULL is ignored.
margay_status margay_engine_destroy(struct margay_engine *engine);

// Which of `answers` the model is likeliest to give: its index goes to `best`, and what is said of each to `scores`, an array
// of `answer_count`. `options` and `scores` may be NULL.
margay_status margay_engine_choose(const struct margay_engine *engine,
                                   const struct margay_request *request,
                                   const char *const *answers,
                                   size_t answer_count,
                                   const struct margay_choose_options *options,
                                   struct margay_scored_answer *scores,
                                   size_t *best);

// Gives the token for this exchange; it is copied and never kept.
margay_status margay_token_give(struct margay_token_place *place, const char *token);

// A client of the large model. Nothing is sent yet.
margay_status margay_cloud_create(const struct margay_cloud_options *options, struct margay_cloud **out);

// Ends the handle; cascades that were made of the cloud live on. NULL is ignored.
margay_status margay_cloud_destroy(struct margay_cloud *cloud);

// Takes the bytes from `start` up to `end` out of the text. `label` says what they are, e.g. `NAME`: the large model reads
// `[NAME_1]` in their place, and its answer gets them back. Where two parts overlap, both go as one, under the first one's label.
margay_status margay_redaction_take(struct margay_redaction *redaction,
                                    const char *label,
                                    size_t start,
                                    size_t end);

// A cascade of an engine, its bundle's policy, and a cloud. `options` may be NULL.
margay_status margay_cascade_create(const struct margay_engine *engine,
                                    const struct margay_cloud *cloud,
                                    const struct margay_cascade_options *options,
                                    struct margay_cascade **out);

// A cascade of an engine, its bundle's policy, and what the file `margay.toml` at `path` describes: servers, tokens, budget,
// cache, audit file and the rest. Its `[device]` is left aside, and an `[outbox]` refused with `MARGAY_STATUS_CONFIGURATION`:
// what waits there has no way back through here. Only in libraries that have the feature `configuration`.
margay_status margay_cascade_configure(const struct margay_engine *engine,
                                       const char *path,
                                       struct margay_cascade **out);

// Answers on the device if it is sure enough, else in the cloud.
margay_status margay_cascade_answer(const struct margay_cascade *cascade,
                                    const struct margay_request *request,
                                    struct margay_answer **out);

// Answers on the device, sure or not: the request reaches no cloud.
margay_status margay_cascade_answer_local(const struct margay_cascade *cascade,
                                          const struct margay_request *request,
                                          struct margay_answer **out);

// The same as `margay_cascade_answer`, with the text handed to `on_event` as it comes. `mode` is one of `margay_stream`.
margay_status margay_cascade_stream(const struct margay_cascade *cascade,
                                    const struct margay_request *request,
                                    int32_t mode,
                                    margay_on_event on_event,
                                    void *user_data,
                                    struct margay_answer **out);

// Ends the handle; a call that is asking it goes on. NULL is ignored.
margay_status margay_cascade_destroy(struct margay_cascade *cascade);

// What the answer says.
margay_status margay_answer_read(const struct margay_answer *answer, struct margay_answer_info *out);

// Ends the handle, and the texts that were read from it. NULL is ignored.
margay_status margay_answer_destroy(struct margay_answer *answer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MARGAY_H */
