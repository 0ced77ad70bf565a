//! A client whose requests the stand-in answers without a connection, on tokio's clock.

use std::{
    convert::Infallible,
    future::{Future as _, pending},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{Request, Response, header::RETRY_AFTER, request::Parts};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::{Client, client::Body};
use sockline_testbed::api::{Answer, Api, Step, Watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

type Pieces = Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>;

/// How long a request is on its way, so that time passes even where nothing waits.
const WAY: Duration = Duration::from_millis(5);

pub(crate) fn client(api: &Api) -> Client {
    let (api, began) = (api.clone(), Instant::now());
    let service = tower::service_fn(move |request: Request<Body>| {
        let api = api.clone();
        async move {
            // Not all of a request may be shared between threads; nobody needs its body.
            let (head, _) = request.into_parts();
            sleep(WAY).await;
            answer(&api, head, began.elapsed()).await
        }
    });
    Client::new(service, "default")
}

async fn answer(
    api: &Api,
    request: Parts,
    at: Duration,
) -> io::Result<Response<StreamBody<Pieces>>> {
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    let (mut response, pieces): (_, Pieces) = match api.answer(target, &headers, at) {
        Answer::Whole { status, retry_after, body } => {
            let mut response = Response::builder().status(status);
            if let Some(seconds) = retry_after {
                response = response.header(RETRY_AFTER, seconds);
            }
            (response, stream::iter([Ok(Frame::data(body.into()))]).boxed())
        }
        Answer::Watch(watch) => (Response::builder(), Carried::new(*watch).boxed()),
        Answer::Hang => match pending::<Infallible>().await {},
        Answer::Close => {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "connection reset"));
        }
    };
    response = response.header("content-type", "application/json");
    Ok(response.body(StreamBody::new(pieces)).unwrap())
}

/// A watch as a body.
struct Carried {
    watch: Watch,
    began: Instant,
    /// Until the watch does something by itself.
    sleep: Pin<Box<Sleep>>,
    broken: bool,
}

impl Carried {
    fn new(watch: Watch) -> Self {
        Self { watch, began: Instant::now(), sleep: Box::pin(sleep(Duration::ZERO)), broken: false }
    }
}

impl Stream for Carried {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.broken {
            return Poll::Ready(None);
        }
        loop {
            let now = self.began.elapsed();
            match self.watch.poll(context, now) {
                Poll::Ready(Step::Send(bytes)) => {
                    return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
                }
                Poll::Ready(Step::End) => return Poll::Ready(None),
                Poll::Ready(Step::Break) => {
                    self.broken = true;
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "cut off");
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => {
                    // tokio's timers are limited to some years.
                    let wait = self.watch.wake_at().min(Duration::from_secs(86_400));
                    let until = self.began + wait.max(now + Duration::from_millis(1));
                    self.sleep.set(sleep_until(until));
                    ready!(self.sleep.as_mut().poll(context));
                }
            }
        }
    }
}
