//! Names → addresses, for the control plane's address and for services whose endpoints are names (ExternalName,
//! ServiceEntry with DNS). The app's own lookups never come here.
//!
//! An answer is kept for its TTL; when a later lookup fails the last good answer is used on, because an address that
//! worked a minute ago is better than none (SEMANTICS.md §2, ServiceEntry). One lookup per name at a time, shared by
//! all who ask. Bound: [`MAX_NAMES`] names, the least recently asked for goes first.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::Shared;
use hickory_resolver::TokioResolver;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// Names kept, each with its last good answer.
const MAX_NAMES: usize = 1024;
/// One lookup, all of its tries.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// TTLs outside these are moved into them: a TTL of zero would mean a lookup per connection, and a hosts file has none.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);
/// After a failure the name is left alone this long.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Addresses kept of one answer.
const MAX_ADDRESSES: usize = 256;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The resolver's answer holds none, or says that the name does not exist.
    #[error("{0} has no address")]
    NoAddress(String),
    /// No answer.
    #[error("looking up {host}: {why}")]
    Failed {
        /// What was asked.
        host: String,
        /// What the resolver says.
        why: String,
    },
    /// No answer in time.
    #[error("looking up {host} took longer than {LOOKUP_TIMEOUT:?}")]
    Timeout {
        /// What was asked.
        host: String,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    addresses: Arc<[IpAddr]>,
    fresh_until: Instant,
}

impl Resolved {
    /// At least one.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// When to ask again.
    pub fn fresh_until(&self) -> Instant {
        self.fresh_until
    }
}

/// What a resolver says: addresses and how long they hold.
pub type Answer = Result<(Vec<IpAddr>, Duration), DnsError>;

/// A lookup under way.
pub type Asking = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Asks a resolver. Tests have their own.
pub trait Ask: Send + Sync + 'static {
    /// Looks up both address families of `host`.
    fn ask(&self, host: &str) -> Asking;
}

type Lookup = Shared<Pin<Box<dyn Future<Output = Result<Resolved, DnsError>> + Send>>>;

struct Entry {
    last_good: Option<Resolved>,
    /// The failure that came after it, and until when it stands.
    failed: Option<(DnsError, Instant)>,
    asking: Option<Lookup>,
    asked: Instant,
}

struct Inner {
    ask: Box<dyn Ask>,
    names: Mutex<HashMap<Box<str>, Entry>>,
}

/// The handle: cheap to clone.
#[derive(Clone)]
pub struct Dns(Arc<Inner>);

impl Dns {
    /// The system's resolver, by `/etc/resolv.conf` and `/etc/hosts`.
    pub fn system() -> Self {
        Self::new(Hickory { resolver: Arc::default() })
    }

    /// Any resolver.
    pub fn new(ask: impl Ask) -> Self {
        Self(Arc::new(Inner { ask: Box::new(ask), names: Mutex::default() }))
    }

    /// Knows these names and no others.
    pub fn fixed<const N: usize>(names: [(&str, IpAddr); N]) -> Self {
        Self::new(Fixed(names.into_iter().map(|(host, address)| (host.to_owned(), address)).collect()))
    }

    /// The addresses of `host`, which may be an address itself. One that ends in a dot is absolute; any other may be
    /// completed by the search list of `/etc/resolv.conf`, as short names of Services are.
    ///
    /// # Errors
    /// When there is no answer now and never was one.
    ///
    /// # Cancel safety
    /// Yes: a lookup that others wait for goes on with them.
    pub async fn resolve(&self, host: &str) -> Result<Resolved, DnsError> {
        let now = tokio::time::Instant::now().into_std();
        if let Ok(address) = host.parse() {
            return Ok(Resolved { addresses: Arc::new([address]), fresh_until: now + LONGEST });
        }
        let host: Box<str> = host.to_ascii_lowercase().into();
        let asking = match self.known_or_ask(&host, now) {
            Ok(known) => return known,
            Err(asking) => asking,
        };
        asking.await
    }

    /// Looks `host` up again when it is next asked for: none of its addresses answers. They stay its last good ones.
    pub fn refresh(&self, host: &str) {
        let now = tokio::time::Instant::now().into_std();
        if let Some(entry) = self.0.names.lock().get_mut(host.to_ascii_lowercase().as_str())
            && let Some(good) = &mut entry.last_good
        {
            good.fresh_until = good.fresh_until.min(now);
        }
    }

    /// A known answer, or the lookup to wait for.
    fn known_or_ask(&self, host: &str, now: Instant) -> Result<Result<Resolved, DnsError>, Lookup> {
        let mut names = self.0.names.lock();
        make_room(&mut names, host);
        let entry = names.entry(host.into()).or_insert_with(|| Entry {
            last_good: None,
            failed: None,
            asking: None,
            asked: now,
        });
        entry.asked = now;
        if let Some(asking) = &entry.asking {
            return Err(asking.clone());
        }
        if let Some((error, until)) = &entry.failed
            && now < *until
        {
            return Ok(entry.last_good.clone().ok_or_else(|| error.clone()));
        }
        if let Some(good) = &entry.last_good
            && now < good.fresh_until
        {
            return Ok(Ok(good.clone()));
        }
        let this = self.clone();
        let (host, entry_host): (Box<str>, Box<str>) = (host.into(), host.into());
        let ask = tokio::time::timeout(LOOKUP_TIMEOUT, self.0.ask.ask(&host));
        // A task of its own: it ends even when all who asked have left.
        let asking = tokio::spawn(async move {
            let answer = match ask.await {
                Ok(answer) => answer,
                Err(_) => Err(DnsError::Timeout { host: host.to_string() }),
            };
            this.take(&host, answer)
        });
        let (this, host) = (self.clone(), entry_host);
        let asking = async move {
            match asking.await {
                Ok(answer) => answer,
                Err(why) => {
                    let why = DnsError::Failed { host: host.to_string(), why: why.to_string() };
                    this.take(&host, Err(why))
                }
            }
        };
        let asking: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(asking);
        let asking = asking.shared();
        entry.asking = Some(asking.clone());
        Err(asking)
    }

    fn take(&self, host: &str, answer: Answer) -> Result<Resolved, DnsError> {
        let now = tokio::time::Instant::now().into_std();
        let answer = answer.and_then(|(mut addresses, ttl)| {
            addresses.truncate(MAX_ADDRESSES);
            if addresses.is_empty() {
                return Err(DnsError::NoAddress(host.to_owned()));
            }
            Ok(Resolved { addresses: addresses.into(), fresh_until: now + ttl.clamp(SHORTEST, LONGEST) })
        });
        let mut names = self.0.names.lock();
        let Some(entry) = names.get_mut(host) else { return answer };
        entry.asking = None;
        match answer {
            Ok(resolved) => {
                entry.failed = None;
                entry.last_good = Some(resolved.clone());
                Ok(resolved)
            }
            Err(error) => {
                let until = now + AFTER_FAILURE;
                entry.failed = Some((error.clone(), until));
                match &mut entry.last_good {
                    Some(good) => {
                        tracing::debug!(%error, "the last good answer stays in use");
                        good.fresh_until = until;
                        Ok(good.clone())
                    }
                    None => Err(error),
                }
            }
        }
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dns({} names)", self.0.names.lock().len())
    }
}

fn make_room(names: &mut HashMap<Box<str>, Entry>, host: &str) {
    if names.len() < MAX_NAMES || names.contains_key(host) {
        return;
    }
    if let Some(oldest) = names.iter().min_by_key(|(_, entry)| entry.asked).map(|(name, _)| name.clone()) {
        names.remove(&oldest);
    }
}

/// The system's resolver, built at the first lookup: a sidecar that never needs a name starts without `resolv.conf`.
struct Hickory {
    resolver: Arc<OnceCell<TokioResolver>>,
}

impl Ask for Hickory {
    fn ask(&self, host: &str) -> Asking {
        let (resolver, host) = (Arc::clone(&self.resolver), host.to_owned());
        Box::pin(async move {
            let failed = |why: &dyn fmt::Display| DnsError::Failed { host: host.clone(), why: why.to_string() };
            let resolver = resolver
                .get_or_try_init(async || {
                    let mut builder = TokioResolver::builder_tokio()?;
                    // A name that is not there yet may come soon: a Service being created.
                    builder.options_mut().negative_max_ttl = Some(AFTER_FAILURE);
                    builder.build()
                })
                .await
                .map_err(|why| failed(&why))?;
            let answer = match resolver.lookup_ip(host.as_str()).await {
                Ok(answer) => answer,
                Err(why) if why.is_no_records_found() => return Err(DnsError::NoAddress(host)),
                Err(why) => return Err(failed(&why)),
            };
            let ttl = answer.valid_until().saturating_duration_since(tokio::time::Instant::now().into_std());
            Ok((answer.iter().collect(), ttl))
        })
    }
}

struct Fixed(HashMap<String, IpAddr>);

impl Ask for Fixed {
    fn ask(&self, host: &str) -> Asking {
        let answer = match self.0.get(host.trim_end_matches('.')) {
            Some(address) => Ok((vec![*address], LONGEST)),
            None => Err(DnsError::NoAddress(host.to_owned())),
        };
        Box::pin(std::future::ready(answer))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Plays a list of answers, each after a second.
    #[derive(Default)]
    struct Script {
        answers: Mutex<VecDeque<Answer>>,
        asked: AtomicUsize,
    }

    impl Ask for Arc<Script> {
        fn ask(&self, host: &str) -> Asking {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let answer = self.answers.lock().pop_front();
            let answer = answer.unwrap_or_else(|| Err(DnsError::NoAddress(host.to_owned())));
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                answer
            })
        }
    }

    fn script<const N: usize>(answers: [Answer; N]) -> (Arc<Script>, Dns) {
        let script = Arc::new(Script { answers: Mutex::new(answers.into()), ..Script::default() });
        (Arc::clone(&script), Dns::new(script))
    }

    fn good(last: u8, ttl: u64) -> Answer {
        Ok((vec![IpAddr::from([10, 0, 0, last])], Duration::from_secs(ttl)))
    }

    fn down() -> Answer {
        Err(DnsError::Failed { host: "a.b".into(), why: "SERVFAIL".into() })
    }

    async fn last_octet(dns: &Dns) -> Option<u8> {
        match dns.resolve("A.b").await.ok()?.addresses() {
            [IpAddr::V4(address)] => Some(address.octets()[3]),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_its_ttl() {
        let (script, dns) = script([good(1, 30), good(2, 30)]);
        assert_eq!(last_octet(&dns).await, Some(1));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(last_octet(&dns).await, Some(1));
        assert_eq!(script.asked.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(last_octet(&dns).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_whose_addresses_are_dead_is_looked_up_again() {
        let (_, dns) = script([good(1, 300), good(2, 300), down()]);
        assert_eq!(last_octet(&dns).await, Some(1));
        dns.refresh("A.b");
        assert_eq!(last_octet(&dns).await, Some(2));
        dns.refresh("a.b");
        assert_eq!(last_octet(&dns).await, Some(2), "kept, since the resolver is down");
        dns.refresh("nobody.asked");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_outlives_a_failure() {
        let (script, dns) = script([good(1, 5), down(), good(3, 5)]);
        assert_eq!(last_octet(&dns).await, Some(1));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(last_octet(&dns).await, Some(1), "kept");
        assert_eq!(last_octet(&dns).await, Some(1), "and the resolver is left alone for a second");
        assert_eq!(script.asked.load(Ordering::Relaxed), 2);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(last_octet(&dns).await, Some(3), "until it answers again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_never_answered_is_an_error() {
        let (_, dns) = script([down(), good(1, 5)]);
        assert_eq!(dns.resolve("a.b").await, down().map(|_| unreachable!()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(last_octet(&dns).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn many_askers_share_one_lookup_and_the_first_may_leave() {
        let (script, dns) = script([good(1, 30)]);
        let first = tokio::time::timeout(Duration::from_millis(10), dns.resolve("a.b"));
        assert!(first.await.is_err(), "the first asker gives up");
        let (a, b) = tokio::join!(last_octet(&dns), last_octet(&dns));
        assert_eq!((a, b), (Some(1), Some(1)));
        assert_eq!(script.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_resolver_is_given_up() {
        struct Silent;
        impl Ask for Silent {
            fn ask(&self, _: &str) -> Asking {
                Box::pin(std::future::pending())
            }
        }
        let began = tokio::time::Instant::now();
        let answer = Dns::new(Silent).resolve("a.b").await;
        assert_eq!(answer, Err(DnsError::Timeout { host: "a.b".into() }));
        assert_eq!(began.elapsed(), LOOKUP_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_their_own_answer_and_the_table_is_bounded() {
        let (script, dns) = script([]);
        for address in ["10.0.0.1", "fd00::1"] {
            assert_eq!(dns.resolve(address).await.unwrap().addresses(), [address.parse::<IpAddr>().unwrap()]);
        }
        assert_eq!(script.asked.load(Ordering::Relaxed), 0);
        let now = tokio::time::Instant::now().into_std();
        for n in 0..MAX_NAMES + 10 {
            let _ = dns.known_or_ask(&format!("n{n}"), now + Duration::from_millis(n as u64));
        }
        let names = dns.0.names.lock();
        assert_eq!(names.len(), MAX_NAMES);
        assert!(!names.contains_key("n0") && names.contains_key("n10"), "the oldest went first");
    }
}
