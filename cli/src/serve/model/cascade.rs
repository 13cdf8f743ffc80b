//! Both models: the device's answer if it is sure enough, else the cloud's.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream;
use margay::{AnswerStream, Cascade, Engine, Origin, Result, Stream, StreamEvent};

use super::{Piece, Pieces, Question, Reply};

pub(super) async fn answer(cascade: &Cascade, engine: &Engine, question: Question) -> Result<Reply> {
    let named = question.log_probabilities;
    let answer = if question.local_only {
        cascade.answer_local(question.request.local_only()).await?
    } else {
        cascade.answer(question.request).await?
    };
    Reply::of_answer(answer, engine, named)
}

pub(super) fn stream(cascade: &Cascade, engine: &Arc<Engine>, question: Question) -> Pieces {
    if question.local_only {
        let (cascade, engine) = (cascade.clone(), Arc::clone(engine));
        return whole(async move { answer(&cascade, &engine, question).await });
    }
    // The tokens come with the answer: with them, nothing is shown before the verdict.
    let mode = if question.log_probabilities { Stream::Hold } else { question.mode };
    let shown = Shown {
        events: cascade.stream(question.request, mode),
        engine: Arc::clone(engine),
        named: question.log_probabilities,
        ready: VecDeque::new(),
    };
    Box::pin(stream::unfold(shown, |mut shown| async { Some((shown.next().await?, shown)) }))
}

/// A reply that comes at once.
pub(super) fn whole(reply: impl Future<Output = Result<Reply>> + Send + 'static) -> Pieces {
    let pieces = async {
        match reply.await {
            Ok(reply) => in_pieces(reply).into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        }
    };
    Box::pin(futures_util::StreamExt::flatten(stream::once(async { stream::iter(pieces.await) })))
}

/// The whole text and the end; token by token, if they are named.
fn in_pieces(mut reply: Reply) -> Vec<Piece> {
    let (mut pieces, origin) = (Vec::new(), reply.account.origin);
    match reply.tokens.take() {
        Some(tokens) => {
            let text = std::mem::take(&mut reply.text);
            let same = tokens.iter().map(|token| token.text.as_str()).collect::<String>() == text;
            // Texts of tokens are not quite the answer's if it leaves something out, e.g. special tokens: then it comes first.
            let mut first = (!same).then_some(text);
            pieces.extend(tokens.into_iter().map(|token| {
                let text = if same { token.text.clone() } else { first.take().unwrap_or_default() };
                Piece::Text { text, origin, tokens: vec![token] }
            }));
            let rest = first.filter(|text| !text.is_empty());
            pieces.extend(rest.map(|text| Piece::Text { text, origin, tokens: Vec::new() }));
        }
        None if reply.text.is_empty() => {}
        None => pieces.push(Piece::Text { text: std::mem::take(&mut reply.text), origin, tokens: Vec::new() }),
    }
    pieces.push(Piece::End(Box::new(reply)));
    pieces
}

struct Shown {
    events: AnswerStream,
    engine: Arc<Engine>,
    named: bool,
    ready: VecDeque<Piece>,
}

impl Shown {
    async fn next(&mut self) -> Option<Result<Piece>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            match self.events.next().await? {
                Err(error) => return Some(Err(error)),
                // It comes again with the answer, token by token.
                Ok(StreamEvent::Token { origin: Origin::Local, .. }) if self.named => {}
                Ok(StreamEvent::Token { text, origin }) => {
                    return Some(Ok(Piece::Text { text, origin: origin.name(), tokens: Vec::new() }));
                }
                Ok(StreamEvent::Superseded { reason }) => {
                    return Some(Ok(Piece::Superseded(reason.map(|reason| reason.as_str()))));
                }
                Ok(StreamEvent::Done(answer)) => match Reply::of_answer(*answer, &self.engine, self.named) {
                    Err(error) => return Some(Err(error)),
                    Ok(mut reply) => {
                        if reply.tokens.is_none() {
                            reply.text.clear();
                        }
                        self.ready.extend(in_pieces(reply));
                    }
                },
                Ok(_) => {}
            }
        }
    }
}
