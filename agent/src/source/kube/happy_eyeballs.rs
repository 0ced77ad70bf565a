//! Dials the addresses of the API server concurrently, and uses the first connection (Happy Eyeballs, RFC 8305).
//!
//! The next address is dialled when one fails or does not answer for a moment. TLS is part of dialling, so a host that has
//! an old address of the API server by now is not used.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use http::Uri;
use tokio::time::{sleep, timeout};
use tower::Service;
use tracing::Instrument as _;

use super::server_addresses::{ServerAddresses, Target};

/// How long an address has before the next one is dialled as well.
const HEAD_START: Duration = Duration::from_millis(300);
/// Timeout for TCP and TLS.
const CONNECTING: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connects with `connector` to the first address that answers.
#[derive(Clone)]
pub(super) struct HappyEyeballs<S> {
    connector: S,
    addresses: Arc<ServerAddresses>,
}

impl<S> HappyEyeballs<S> {
    pub(super) const fn new(connector: S, addresses: Arc<ServerAddresses>) -> Self {
        Self { connector, addresses }
    }
}

/// No address could be reached; with the reason of each.
#[derive(Debug)]
struct Unreachable(Vec<(Target, String, String)>);

impl std::error::Error for Unreachable {}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (_, address, reason)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{address}: {reason}")?;
        }
        Ok(())
    }
}

impl<S> Service<Uri> for HappyEyeballs<S>
where
    S: Service<Uri> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Response: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, configured: Uri) -> Self::Future {
        let (connector, addresses) = (self.connector.clone(), Arc::clone(&self.addresses));
        Box::pin(async move { race(connector, &addresses, &configured).await })
    }
}

async fn race<S>(
    connector: S,
    addresses: &ServerAddresses,
    configured: &Uri,
) -> Result<S::Response, BoxError>
where
    S: Service<Uri> + Clone,
    S::Error: Into<BoxError>,
{
    let mut next = addresses.candidates().into_iter().peekable();
    let mut running = FuturesUnordered::new();
    let mut reasons = Vec::new();
    loop {
        if let Some(target) = next.next() {
            running.push(attempt(connector.clone(), configured, target));
        }
        tokio::select! {
            Some((target, address, result)) = running.next() => match result {
                Ok(connection) => {
                    addresses.reached(target);
                    return Ok(connection);
                }
                Err(reason) => reasons.push((target, address, reason)),
            },
            () = sleep(HEAD_START), if next.peek().is_some() => {}
            else => {
                // Sorted, so that the same errors are the same message each time.
                reasons.sort();
                return Err(Unreachable(reasons).into());
            }
        }
    }
}

async fn attempt<S>(
    mut connector: S,
    configured: &Uri,
    target: Target,
) -> (Target, String, Result<S::Response, String>)
where
    S: Service<Uri>,
    S::Error: Into<BoxError>,
{
    let address = |url: &Uri| url.authority().map_or_else(String::new, ToString::to_string);
    let url = match at(configured, target) {
        Ok(url) => url,
        Err(error) => return (target, address(configured), Err(error.to_string())),
    };
    let address = address(&url);
    let connecting = async {
        std::future::poll_fn(|context| connector.poll_ready(context)).await?;
        connector.call(url).await
    };
    let connecting = async {
        let result = match timeout(CONNECTING, connecting).await {
            Ok(result) => result.map_err(|error| crate::error_chain::chain(&*error.into())),
            Err(_) => Err(format!("no answer for {} seconds", CONNECTING.as_secs())),
        };
        match &result {
            Ok(_) => tracing::debug!("connected"),
            Err(error) => tracing::debug!(error, "cannot connect"),
        }
        result
    };
    let result = connecting.instrument(tracing::error_span!("connect", address)).await;
    (target, address, result)
}

/// The server's URL with the address to dial as its host. The name that TLS verifies is configured apart.
fn at(configured: &Uri, target: Target) -> Result<Uri, http::Error> {
    let Target::Endpoint(endpoint) = target else { return Ok(configured.clone()) };
    let scheme = configured.scheme_str().unwrap_or("https");
    Uri::builder().scheme(scheme).authority(endpoint.to_string()).path_and_query("/").build()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io, net::SocketAddr, sync::Mutex};

    use super::*;

    /// How each address answers, and which were dialled.
    #[derive(Clone, Default)]
    struct Network {
        answers: Arc<BTreeMap<String, Answer>>,
        dialled: Arc<Mutex<Vec<String>>>,
    }

    #[derive(Clone, Copy)]
    enum Answer {
        Connects,
        Refuses,
        IsSilent,
    }

    impl Network {
        fn new(answers: &[(&str, Answer)]) -> Self {
            let answers = answers.iter().map(|(address, answer)| ((*address).to_owned(), *answer));
            Self { answers: Arc::new(answers.collect()), dialled: Arc::default() }
        }

        async fn connect(&self, addresses: &ServerAddresses) -> Result<String, String> {
            let configured = Uri::from_static("https://10.96.0.1:443/");
            race(self.clone(), addresses, &configured).await.map_err(|error| error.to_string())
        }
    }

    impl Service<Uri> for Network {
        type Response = String;
        type Error = io::Error;
        type Future = Pin<Box<dyn Future<Output = io::Result<String>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, url: Uri) -> Self::Future {
            let address = url.authority().unwrap().to_string();
            self.dialled.lock().unwrap().push(address.clone());
            let answer = self.answers[&address];
            Box::pin(async move {
                match answer {
                    Answer::Connects => Ok(address),
                    Answer::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                    Answer::IsSilent => std::future::pending().await,
                }
            })
        }
    }

    const SERVICE: &str = "10.96.0.1:443";
    const DEAD: &str = "192.0.2.1:6443";
    const ALIVE: &str = "192.0.2.2:6443";

    fn addresses() -> ServerAddresses {
        let addresses = ServerAddresses::default();
        addresses
            .set_endpoints([DEAD, ALIVE].map(|address| address.parse::<SocketAddr>().unwrap()));
        addresses
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_answers_at_once_is_the_only_one_that_is_dialled() {
        let network = Network::new(&[(SERVICE, Answer::Connects)]);
        assert_eq!(network.connect(&addresses()).await.unwrap(), SERVICE);
        assert_eq!(*network.dialled.lock().unwrap(), [SERVICE]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_answers_wins_whatever_the_others_do_and_is_the_first_next_time() {
        for answers in [Answer::Refuses, Answer::IsSilent] {
            let network =
                Network::new(&[(SERVICE, answers), (DEAD, answers), (ALIVE, Answer::Connects)]);
            let addresses = addresses();
            assert_eq!(network.connect(&addresses).await.unwrap(), ALIVE);
            network.dialled.lock().unwrap().clear();
            assert_eq!(network.connect(&addresses).await.unwrap(), ALIVE);
            assert_eq!(*network.dialled.lock().unwrap(), [ALIVE]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn if_none_answers_each_is_named_with_its_error_in_the_same_order() {
        let network = Network::new(&[
            (SERVICE, Answer::Refuses),
            (DEAD, Answer::IsSilent),
            (ALIVE, Answer::Refuses),
        ]);
        for _ in 0..10 {
            assert_eq!(
                network.connect(&addresses()).await.unwrap_err(),
                "10.96.0.1:443: connection refused, 192.0.2.1:6443: no answer for 10 seconds, \
                 192.0.2.2:6443: connection refused"
            );
        }
    }
}
