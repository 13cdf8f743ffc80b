//! How much the cloud may cost by day and month, in all and by class, and how much it has cost.
//!
//! An exchange is counted before it begins, at the most it can cost, and corrected afterwards: what a crash leaves behind
//! is counted, never forgotten.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use redb::{ReadableTable as _, Table, TableDefinition};

use super::database::{Store, off_thread};
use super::period::Period;
use crate::answer::{Money, Tokens};
use crate::cloud::{Clock, LargeModel, SystemClock, unix_ms};
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;
use crate::stores::Metered;

/// Longest name of a class, in bytes; with it the size of a row is bounded.
const MAX_CLASS: usize = 64;

/// Tokens that a chat template may put around one message, and before the answer: more than any of the known ones.
const TEMPLATE_TOKENS: u64 = 16;

/// Micro-units and tokens by period, its number, and class; the empty class is the total.
const SPENT: TableDefinition<'_, Row<'_>, (u64, u64)> = TableDefinition::new("spent");

/// The latest moment the store has seen, in milliseconds since 1970.
const LATEST: TableDefinition<'_, (), u64> = TableDefinition::new("latest");

type Row<'a> = (u8, u64, &'a str);

/// What the large model's provider asks, in millionths of a currency unit for a million tokens.
///
/// 2.50 for a million tokens read and 10 for a million written is `Price { input: 2_500_000, output: 10_000_000 }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Price {
    /// For a million tokens read.
    pub input: u64,
    /// For a million tokens written.
    pub output: u64,
}

impl Price {
    /// What `tokens` cost, rounded up.
    #[must_use]
    pub fn of(&self, tokens: Tokens) -> Money {
        let product = |price: u64, count: u64| u128::from(price) * u128::from(count);
        let millionths = product(self.input, tokens.input).saturating_add(product(self.output, tokens.output));
        Money::from_micros(u64::try_from(millionths.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

/// The most that one period may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    period: Period,
    class: String,
    money: Option<Money>,
    tokens: Option<u64>,
}

impl Limit {
    /// A limit without numbers yet, for everything.
    #[must_use]
    pub fn per(period: Period) -> Self {
        Self { period, class: String::new(), money: None, tokens: None }
    }

    /// Only for requests of this class.
    #[must_use]
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = class.into();
        self
    }

    /// At most so much money.
    #[must_use]
    pub fn money(mut self, most: Money) -> Self {
        self.money = Some(most);
        self
    }

    /// At most so many tokens, read and written.
    #[must_use]
    pub fn tokens(mut self, most: u64) -> Self {
        self.tokens = Some(most);
        self
    }

    fn allows(&self, spent: Spent) -> bool {
        self.money.is_none_or(|most| spent.money <= most) && self.tokens.is_none_or(|most| spent.tokens <= most)
    }
}

/// What a period has cost so far, exchanges under way included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Spent {
    /// By the price table.
    pub money: Money,
    /// Read and written.
    pub tokens: u64,
}

/// Limits on what the cloud may cost, and a durable account of what it did.
///
/// ```no_run
/// use margay::Money;
/// use margay::stores::{Budget, Limit, Period, Price};
/// # fn main() -> margay::Result<()> {
/// # let client = margay::cloud::CloudClient::openai("https://api.example.com/v1", "large-model").build()?;
/// let budget = Budget::builder(Price { input: 2_500_000, output: 10_000_000 })
///     .limit(Limit::per(Period::Month).money(Money::from_micros(5_000_000)))
///     .limit(Limit::per(Period::Day).class("chat").tokens(200_000))
///     .open("budget.redb")?;
/// let cloud = budget.meter(client); // a large model that never costs more; give it to a cascade
/// # Ok(()) }
/// ```
///
/// Before an exchange the most it can cost is reserved, on the disk: a token for each byte of the conversation, 16 around
/// each message, and `max_tokens`. If any limit would be passed, nothing is sent and the error is
/// [`ErrorKind::Budget`]. After it, the server's usage takes the place of the reservation. A reservation stands when it is not
/// known what the exchange cost: the answer was cut, the deadline passed, the process died.
///
/// Time only runs forward: with the device's clock set back, the latest moment seen goes on counting, so that no period
/// comes twice. A clock set forward stays ahead until the calendar has caught up.
#[derive(Clone)]
pub struct Budget {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    price: Price,
    limits: Vec<Limit>,
    clock: Arc<dyn Clock>,
}

impl Budget {
    /// Begins with the provider's price and no limit.
    #[must_use]
    pub fn builder(price: Price) -> BudgetBuilder {
        BudgetBuilder { price, limits: Vec::new(), clock: Arc::new(SystemClock) }
    }

    /// The same large model, which refuses what this budget does not cover.
    #[must_use]
    pub fn meter<M: LargeModel>(&self, cloud: M) -> Metered<M> {
        Metered::new(self.clone(), cloud)
    }

    /// What the present period has cost, in all (`None`) or by requests of a class.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Io`].
    pub fn spent(&self, period: Period, class: Option<&str>) -> Result<Spent> {
        let now = unix_ms(&*self.inner.clock);
        self.inner.store.read(|transaction| {
            let latest = transaction.open_table(LATEST)?.get(())?.map_or(0, |latest| latest.value());
            let key = (period.code(), period.number(now.max(latest)), class.unwrap_or_default());
            let spent = transaction.open_table(SPENT)?;
            Ok(spent.get(key)?.map_or_else(Spent::default, |spent| Spent::from(spent.value())))
        })
    }

    /// Sets aside the most that `request` can cost.
    pub(super) async fn reserve(&self, request: &Request) -> Result<Reservation> {
        let class = request.class.clone().unwrap_or_default();
        if class.len() > MAX_CLASS {
            let message = format!("the name of the request's budget class is over {MAX_CLASS} bytes");
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        let most = most(request);
        let budget = self.clone();
        off_thread(move || budget.inner.reserve(class, most)).await
    }

    /// Puts what an exchange did cost in the place of what was set aside.
    pub(super) async fn settle(&self, reservation: Reservation, cost: Tokens) -> Result<Money> {
        let budget = self.clone();
        off_thread(move || budget.inner.settle(&reservation, cost)).await
    }

    /// What a reservation that stands counts as.
    pub(super) fn price_of(&self, most: Tokens) -> Money {
        self.inner.price.of(most)
    }
}

/// What is set aside for one exchange. Dropped, it stands.
pub(super) struct Reservation {
    class: String,
    /// The moment whose periods it was counted in.
    at: u64,
    most: Tokens,
}

impl Reservation {
    pub(super) fn most(&self) -> Tokens {
        self.most
    }
}

/// The most tokens a request can cost: a tokenizer makes no more tokens than bytes.
fn most(request: &Request) -> Tokens {
    let messages = request.messages.iter().map(|message| {
        let calls = message.tool_calls.iter().map(|call| call.name.len() + call.arguments.len());
        (message.content.len() + calls.sum::<usize>()) as u64 + TEMPLATE_TOKENS
    });
    let tools = request.tools.iter().map(|tool| {
        let described = tool.description.as_ref().map_or(0, String::len);
        (tool.name.len() + described + tool.parameters.to_string().len()) as u64 + TEMPLATE_TOKENS
    });
    Tokens { input: messages.sum::<u64>() + tools.sum::<u64>() + TEMPLATE_TOKENS, output: request.max_tokens as u64 }
}

impl Inner {
    fn reserve(&self, class: String, most: Tokens) -> Result<Reservation> {
        let now = unix_ms(&*self.clock);
        let cost = self.spent(most);
        let outcome = self.store.write(|transaction| {
            let mut latest = transaction.open_table(LATEST)?;
            let at = latest.get(())?.map_or(0, |latest| latest.value()).max(now);
            latest.insert((), at)?;
            let mut spent = transaction.open_table(SPENT)?;
            for limit in self.limits.iter().filter(|limit| limit.class.is_empty() || limit.class == class) {
                let key = (limit.period.code(), limit.period.number(at), limit.class.as_str());
                if !limit.allows(read(&spent, key)?.plus(cost)) {
                    return Ok(Err(over(limit)));
                }
            }
            for key in rows(&class, at) {
                let sum = read(&spent, key)?.plus(cost);
                spent.insert(key, (sum.money.micros(), sum.tokens))?;
            }
            Ok(Ok(at))
        })?;
        outcome.map(|at| Reservation { class, at, most })
    }

    fn settle(&self, reservation: &Reservation, cost: Tokens) -> Result<Money> {
        let (reserved, cost) = (self.spent(reservation.most), self.spent(cost));
        self.store.write(|transaction| {
            let mut spent = transaction.open_table(SPENT)?;
            for key in rows(&reservation.class, reservation.at) {
                let sum = read(&spent, key)?.minus(reserved).plus(cost);
                spent.insert(key, (sum.money.micros(), sum.tokens))?;
            }
            Ok(())
        })?;
        Ok(cost.money)
    }

    fn spent(&self, tokens: Tokens) -> Spent {
        Spent { money: self.price.of(tokens), tokens: tokens.input.saturating_add(tokens.output) }
    }
}

/// The rows that a request of `class` counts in: the totals, and its class's if it has one.
fn rows(class: &str, at: u64) -> impl Iterator<Item = Row<'_>> {
    let classes = [Some(""), Some(class).filter(|class| !class.is_empty())].into_iter().flatten();
    classes.flat_map(move |class| Period::ALL.map(|period| (period.code(), period.number(at), class)))
}

fn read(spent: &Table<'_, Row<'static>, (u64, u64)>, key: Row<'_>) -> Result<Spent, redb::Error> {
    Ok(spent.get(key)?.map_or_else(Spent::default, |spent| Spent::from(spent.value())))
}

fn over(limit: &Limit) -> Error {
    let class = if limit.class.is_empty() { String::new() } else { format!(" of class `{}`", limit.class) };
    Error::new(ErrorKind::Budget, format!("the budget{class} for this {} does not cover the request", limit.period))
}

impl Spent {
    fn plus(self, other: Self) -> Self {
        let money = self.money.micros().saturating_add(other.money.micros());
        Self { money: Money::from_micros(money), tokens: self.tokens.saturating_add(other.tokens) }
    }

    fn minus(self, other: Self) -> Self {
        let money = self.money.micros().saturating_sub(other.money.micros());
        Self { money: Money::from_micros(money), tokens: self.tokens.saturating_sub(other.tokens) }
    }
}

impl From<(u64, u64)> for Spent {
    fn from((micros, tokens): (u64, u64)) -> Self {
        Self { money: Money::from_micros(micros), tokens }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { store, price, limits, .. } = &*self.inner;
        f.debug_struct("Budget").field("store", store).field("price", price).field("limits", limits).finish()
    }
}

/// What a [`Budget`] is made of; see [`Budget::builder`].
pub struct BudgetBuilder {
    price: Price,
    limits: Vec<Limit>,
    clock: Arc<dyn Clock>,
}

impl BudgetBuilder {
    /// One more limit; all of them hold.
    #[must_use]
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limits.push(limit);
        self
    }

    /// The clock whose calendar says which day it is; [`SystemClock`] unless said.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the account at `path`, or a new one. Price and limits are not stored: they may change from one start to the
    /// next, and what was spent stays.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the file is damaged, none of a budget, or open in another process; [`ErrorKind::Io`];
    /// [`ErrorKind::InvalidRequest`] if the name of a class is over 64 bytes.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Budget> {
        if self.limits.iter().any(|limit| limit.class.len() > MAX_CLASS) {
            let message = format!("the name of a limit's class is over {MAX_CLASS} bytes");
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        let store = Store::open(path.as_ref(), "margay budget 1")?;
        store.write(|transaction| {
            transaction.open_table(SPENT)?;
            transaction.open_table(LATEST)?;
            Ok(())
        })?;
        let Self { price, limits, clock } = self;
        Ok(Budget { inner: Arc::new(Inner { store, price, limits, clock }) })
    }
}

impl fmt::Debug for BudgetBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BudgetBuilder")
            .field("price", &self.price)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
