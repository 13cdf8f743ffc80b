//! The large model behind HTTPS, with the caller's tokens and redactor.

use std::error::Error as StdError;
use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use margay::cloud::{BoxFuture, CloudClient, Dialect, Retry, Roots, SpkiPin, Token, TokenProvider, Wanted};
use margay::privacy::Patterns;

use crate::handle::{self, kind};
use crate::input::{self, Versioned};
use crate::redaction::{CRedact, CallerRedactor};
use crate::status::{Failure, Status, calling, guard};

/// A large model behind HTTPS.
pub struct CCloud;

pub(crate) struct Cloud(pub(crate) Arc<CloudClient>);
kind!(CCloud, Cloud, "cloud");

/// Whose API a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum CDialect {
    /// OpenAI's chat completions, which most servers speak.
    OpenAi = 0,
    /// Anthropic's Messages.
    Anthropic = 1,
    /// Google's Gemini.
    Gemini = 2,
}

/// Where a token provider puts its token; valid during the callback that it is given to, on its thread.
#[derive(Debug)]
pub struct CTokenPlace {
    token: Option<String>,
}

/// Gives the token for one exchange to `margay_token_give`: the present one, or a new one if `renewed`, because the server has
/// just refused the present one. Returns 0, or anything else if there is none: the exchange then fails with
/// `MARGAY_STATUS_UNAUTHORIZED`. Called on the thread that asks, which waits for it; it may not ask a model.
pub type CProvideToken =
    Option<unsafe extern "C" fn(user_data: *mut c_void, renewed: bool, place: *mut CTokenPlace) -> i32>;

/// Ends what `user_data` points to.
pub type CDestroy = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// The large model and the way to it. `endpoint` and `model` are required; the rest may be zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CCloudOptions {
    /// `sizeof(margay_cloud_options)`.
    pub size: usize,
    /// Base address, e.g. `https://api.example.com/v1`; HTTPS only.
    pub endpoint: *const c_char,
    /// The model's name there.
    pub model: *const c_char,
    /// One of `margay_dialect`.
    pub dialect: i32,
    /// Gives tokens, at any time while the cloud lives and from any thread that asks; NULL sends none.
    pub provide_token: CProvideToken,
    /// Says what must not leave, likewise; NULL takes nothing out.
    pub redact: CRedact,
    /// What both callbacks are given.
    pub user_data: *mut c_void,
    /// Called with `user_data` once nothing can call back any more, also if `margay_cloud_create` fails; may be NULL.
    pub destroy_user_data: CDestroy,
    /// Take out e-mail addresses, card numbers, IBANs, IP addresses and phone numbers.
    pub redact_patterns: bool,
    /// Believe only the authorities in this PEM text; NULL is Mozilla's list.
    pub roots_pem: *const c_char,
    /// Believe the operating system's authorities instead of Mozilla's.
    pub platform_roots: bool,
    /// Pins of the server's public key, `sha256/...`.
    pub pins: *const *const c_char,
    /// How many.
    pub pin_count: usize,
    /// Exchanges for one question at most; 0 is 3.
    pub attempts: u32,
    /// Longest wait for a connection, in milliseconds; 0 is 10 seconds.
    pub connect_timeout_ms: u64,
    /// Longest wait for one exchange, in milliseconds; 0 is 120 seconds.
    pub attempt_timeout_ms: u64,
}

// SAFETY: pointers, functions that may be none, numbers and bools.
unsafe impl Versioned for CCloudOptions {
    const NAME: &'static str = "margay_cloud_options";
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

/// The caller's data, and who ends it; shared by the callbacks.
#[derive(Clone)]
pub(crate) struct Owner(Arc<Owned>);

struct Owned {
    user_data: *mut c_void,
    destroy: CDestroy,
}

// SAFETY: the header says that callbacks may come from any thread that asks; the pointer is only handed back to them.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl Owner {
    pub(crate) fn user_data(&self) -> *mut c_void {
        self.0.user_data
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(destroy) = self.destroy {
            // SAFETY: the caller gave the function for this data, and nothing else has it any more.
            calling(|| unsafe { destroy(self.user_data) });
        }
    }
}

struct CallerTokens {
    provide: unsafe extern "C" fn(*mut c_void, bool, *mut CTokenPlace) -> i32,
    owner: Owner,
}

impl TokenProvider for CallerTokens {
    fn token(&self, wanted: Wanted) -> BoxFuture<'_, Result<Token, Box<dyn StdError + Send + Sync>>> {
        Box::pin(async move {
            let mut place = CTokenPlace { token: None };
            let renewed = wanted == Wanted::Renewed;
            // SAFETY: the caller gave the function for this data.
            let failed = calling(|| unsafe { (self.provide)(self.owner.user_data(), renewed, &raw mut place) });
            if failed != 0 {
                return Err(format!("the app's token provider failed with {failed}").into());
            }
            place.token.map(Token::new).ok_or_else(|| "the app's token provider gave no token".into())
        })
    }
}

/// Gives the token for this exchange; it is copied and never kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_token_give(place: *mut CTokenPlace, token: *const c_char) -> Status {
    guard(|| {
        if place.is_null() {
            return Err(Failure::new(Status::NullArgument, "the token's place is NULL"));
        }
        // SAFETY: not NULL, and as the header says of every pointer.
        let (place, token) = unsafe { (&mut *place, input::text(token, "token")?) };
        place.token = Some(token.to_owned());
        Ok(())
    })
}

/// A client of the large model. Nothing is sent yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_cloud_create(options: *const CCloudOptions, out: *mut *mut CCloud) -> Status {
    guard(|| {
        if options.is_null() {
            return Err(Failure::new(Status::NullArgument, "the options are NULL"));
        }
        // SAFETY: as the header says of every pointer.
        let options = unsafe { input::versioned(options) }?;
        // From here on the data is ended whatever happens.
        let owner = Owner(Arc::new(Owned { user_data: options.user_data, destroy: options.destroy_user_data }));
        // SAFETY: as above.
        let client = unsafe { client(&options, owner) }?;
        // SAFETY: as above.
        unsafe { handle::give(out, Cloud(Arc::new(client))) }
    })
}

/// # Safety
/// The pointers in it are as the header says.
unsafe fn client(options: &CCloudOptions, owner: Owner) -> Result<CloudClient, Failure> {
    // SAFETY: the caller's.
    let (endpoint, model, roots, pins) = unsafe {
        (
            input::text(options.endpoint, "endpoint")?,
            input::text(options.model, "model")?,
            input::optional_text(options.roots_pem, "roots_pem")?,
            input::texts(options.pins, options.pin_count, "pins")?,
        )
    };
    let dialect = match options.dialect {
        0 => Dialect::OpenAi,
        1 => Dialect::Anthropic,
        2 => Dialect::Gemini,
        other => return Err(Failure::new(Status::InvalidRequest, format!("dialect is {other}, not 0 to 2"))),
    };
    let mut builder = match dialect {
        Dialect::Anthropic => CloudClient::anthropic(endpoint, model),
        Dialect::Gemini => CloudClient::gemini(endpoint, model),
        _ => CloudClient::openai(endpoint, model),
    };
    builder = builder.pins(pins.into_iter().map(str::parse::<SpkiPin>).collect::<Result<Vec<_>, _>>()?);
    builder = match (roots, options.platform_roots) {
        (Some(pem), _) => builder.roots(Roots::Pem(pem.into())),
        (None, true) => builder.roots(Roots::Platform),
        (None, false) => builder,
    };
    if options.attempts != 0 {
        builder = builder.retry(Retry { attempts: options.attempts, ..Retry::default() });
    }
    if options.connect_timeout_ms != 0 {
        builder = builder.connect_timeout(Duration::from_millis(options.connect_timeout_ms));
    }
    if options.attempt_timeout_ms != 0 {
        builder = builder.attempt_timeout(Duration::from_millis(options.attempt_timeout_ms));
    }
    if let Some(provide) = options.provide_token {
        builder = builder.token(CallerTokens { provide, owner: owner.clone() });
    }
    if options.redact_patterns || options.redact.is_some() {
        let patterns = options.redact_patterns.then(Patterns::built_in);
        builder = builder.redactor(CallerRedactor { patterns, redact: options.redact, owner });
    }
    Ok(builder.build()?)
}

/// Ends the handle; cascades that were made of the cloud live on. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_cloud_destroy(cloud: *mut CCloud) -> Status {
    guard(|| handle::destroy::<Cloud>(cloud))
}
