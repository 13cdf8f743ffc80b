//! Rows of several models side by side, joined by the name of the query, whatever order they come in.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::cost::CostModel;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::{Names, Row};

/// Numbers of each query and model, by the number of the query's name.
pub(crate) struct Joined<'m> {
    models: HashMap<&'m str, usize>,
    order: &'m [&'m str],
    cost: &'m CostModel,
    names: Names,
    links: Vec<Link>,
}

/// One model: one number for each query; NaN where there is none.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) quality: Vec<f64>,
    pub(crate) cost: Vec<f64>,
    pub(crate) score: Vec<f64>,
    pub(crate) latency_ms: Vec<f64>,
}

impl<'m> Joined<'m> {
    /// Nothing yet, of models in the order in which they are asked.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for fewer than two models, or one named twice.
    pub(crate) fn new(models: &'m [&'m str], cost: &'m CostModel) -> Result<Self> {
        let places: HashMap<&str, usize> = models.iter().enumerate().map(|(at, model)| (*model, at)).collect();
        if models.len() < 2 || places.len() < models.len() {
            return Err(Error::new(ErrorKind::Invalid, "a chain needs at least two models, each once"));
        }
        let links = models.iter().map(|_| Link::default()).collect();
        Ok(Self { models: places, order: models, cost, names: Names::default(), links })
    }

    /// The rows of these models; those of others are passed over.
    ///
    /// # Errors
    /// As [`Joined::new`] and [`Joined::push`].
    pub(crate) fn of<'a, R: Into<Row<'a>>>(
        rows: impl IntoIterator<Item = R>,
        models: &'m [&'m str],
        cost: &'m CostModel,
    ) -> Result<Self> {
        let mut joined = Self::new(models, cost)?;
        rows.into_iter().try_for_each(|row| joined.push(row.into()).map(drop))?;
        Ok(joined)
    }

    /// Adds a row and gives the number of its query and the place of its model; nothing for a model that was not named.
    ///
    /// # Errors
    /// [`ErrorKind::Duplicate`], [`ErrorKind::MissingValue`] for an empty `score` (all models but the last) or an empty
    /// column of the cost's unit, [`ErrorKind::TooLarge`].
    pub(crate) fn push(&mut self, row: Row<'_>) -> Result<Option<(u32, usize)>> {
        let Some(&place) = self.models.get(row.model()) else { return Ok(None) };
        let query = self.names.number(row.query())?;
        let at = query as usize;
        let link = &mut self.links[place];
        if link.quality.get(at).is_some_and(|quality| !quality.is_nan()) {
            let message = format!("a second row for query `{}` and model `{}`", row.query(), row.model());
            return Err(Error::new(ErrorKind::Duplicate, message));
        }
        if place + 1 < self.order.len() && row.score().is_none() {
            return Err(row.lacks("score"));
        }
        let cost = self.cost.of(row, place == 0)?;
        let numbers = [row.quality(), cost, row.score().unwrap_or(f64::NAN), row.latency_ms().unwrap_or(f64::NAN)];
        for (column, number) in link.columns().into_iter().zip(numbers) {
            if column.len() <= at {
                column.resize(at + 1, f64::NAN);
            }
            column[at] = number;
        }
        Ok(Some((query, place)))
    }

    /// The names and, for each model, its numbers by the number of the name; and those numbers in the order of names.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without queries, [`ErrorKind::MissingPair`] naming the first query, by name, that a model
    /// lacks.
    pub(crate) fn finish(mut self) -> Result<(Names, Vec<Link>, Vec<u32>)> {
        let queries = self.names.len();
        if queries == 0 {
            return Err(Error::new(ErrorKind::Invalid, self.nothing()));
        }
        for link in &mut self.links {
            link.columns().into_iter().for_each(|column| column.resize(queries, f64::NAN));
        }
        let lacking = |link: &&Link, query: u32| link.quality[query as usize].is_nan();
        let missing = (0..queries as u32)
            .filter(|query| self.links.iter().any(|link| lacking(&link, *query)))
            .min_by_key(|query| self.names.text(*query));
        if let Some(query) = missing {
            let place = self.links.iter().position(|link| lacking(&link, query)).unwrap_or_default();
            let message = format!("query `{}` has no row for model `{}`", self.names.text(query), self.order[place]);
            return Err(Error::new(ErrorKind::MissingPair, message));
        }
        let mut by_name: Vec<u32> = (0..queries as u32).collect();
        by_name.par_sort_unstable_by(|a, b| self.names.text(*a).cmp(self.names.text(*b)));
        Ok((self.names, self.links, by_name))
    }

    fn nothing(&self) -> String {
        format!("no queries: no row is of a model named {}", self.order.join(" or "))
    }
}

impl Link {
    fn columns(&mut self) -> [&mut Vec<f64>; 4] {
        [&mut self.quality, &mut self.cost, &mut self.score, &mut self.latency_ms]
    }
}

/// Both models' rows of each query, in the order of the queries' names.
///
/// # Errors
/// [`ErrorKind::MissingPair`], [`ErrorKind::Duplicate`].
pub(crate) fn rows_of_both<'a>(
    rows: impl IntoIterator<Item = Row<'a>>,
    small: &str,
    large: &str,
) -> Result<(Vec<Row<'a>>, Vec<Row<'a>>)> {
    let mut of_models: [HashMap<&str, Row<'a>>; 2] = Default::default();
    for row in rows {
        let place = match row.model() {
            model if model == small => 0,
            model if model == large => 1,
            _ => continue,
        };
        if of_models[place].insert(row.query(), row).is_some() {
            let message = format!("a second row for query `{}` and model `{}`", row.query(), row.model());
            return Err(Error::new(ErrorKind::Duplicate, message));
        }
    }
    let [of_small, mut of_large] = of_models;
    let mut of_small: Vec<Row<'a>> = of_small.into_values().collect();
    of_small.sort_unstable_by(|a, b| a.query().cmp(b.query()));
    let lacks = |query: &str, model: &str| {
        Error::new(ErrorKind::MissingPair, format!("query `{query}` has no row for model `{model}`"))
    };
    let partner = |row: &Row<'a>| of_large.remove(row.query()).ok_or_else(|| lacks(row.query(), large));
    let partners = of_small.iter().map(partner).collect::<Result<_>>()?;
    match of_large.keys().min() {
        Some(query) => Err(lacks(query, small)),
        None => Ok((of_small, partners)),
    }
}
