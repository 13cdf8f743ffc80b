//! The large model alone, or asked past the device.

use std::sync::Arc;
use std::time::Instant;

use futures_util::stream;
use margay::cloud::{BoxFuture, LargeModel};
use margay::{Origin, Request, Result};
use tokio::sync::mpsc;

use super::{Piece, Pieces, Reply};

pub(super) async fn answer(
    cloud: &Arc<dyn LargeModel>,
    request: Request,
    reason: Option<&'static str>,
) -> Result<Reply> {
    let started = Instant::now();
    let answer = cloud.answer(&request).await?;
    Ok(Reply::of_cloud(answer, started.elapsed().as_secs_f64(), reason))
}

pub(super) fn stream(cloud: &Arc<dyn LargeModel>, request: Request, reason: Option<&'static str>) -> Pieces {
    let (sender, receiver) = mpsc::unbounded_channel();
    let cloud = Arc::clone(cloud);
    let driver = async move {
        let started = Instant::now();
        // Nobody listens once the stream is dropped, and this future with it.
        let mut on_text = |text: &str| {
            let piece = Piece::Text { text: text.to_owned(), origin: Origin::Cloud.name(), tokens: Vec::new() };
            drop(sender.send(piece));
        };
        let answer = cloud.stream(&request, &mut on_text).await?;
        Ok(Reply::of_cloud(answer, started.elapsed().as_secs_f64(), reason))
    };
    driven(receiver, Box::pin(driver))
}

/// Pieces that come while a future is polled, and its outcome behind them.
pub(super) fn driven(receiver: mpsc::UnboundedReceiver<Piece>, driver: BoxFuture<'static, Result<Reply>>) -> Pieces {
    let driven = Driven { receiver, driver: Some(driver), end: None };
    Box::pin(stream::unfold(driven, |mut driven| async { Some((driven.next().await?, driven)) }))
}

struct Driven {
    receiver: mpsc::UnboundedReceiver<Piece>,
    driver: Option<BoxFuture<'static, Result<Reply>>>,
    end: Option<Result<Reply>>,
}

impl Driven {
    async fn next(&mut self) -> Option<Result<Piece>> {
        if let Some(driver) = &mut self.driver {
            tokio::select! {
                biased;
                Some(piece) = self.receiver.recv() => return Some(Ok(piece)),
                end = driver => self.end = Some(end),
            }
            self.driver = None;
        }
        if let Ok(piece) = self.receiver.try_recv() {
            return Some(Ok(piece));
        }
        let end = self.end.take()?;
        Some(end.map(|mut reply| {
            reply.text.clear();
            Piece::End(Box::new(reply))
        }))
    }
}
