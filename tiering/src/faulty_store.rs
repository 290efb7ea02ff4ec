//! A store between a lake and its real store, which loses requests, answers and bodies on demand.
//!
//! Calls are counted: [`FaultyStore::strike`] plans one fault for the n-th from the start, [`FaultyStore::calls`] says what
//! they were. What a client cannot tell apart is one fault here: 503, 429, a timeout and a reset before the effect are all
//! [`Fault::RequestLost`]. The tests over HTTP tell them apart.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// No effect; the answer is an error.
    RequestLost,
    /// It has its effect; the answer is an error.
    AnswerLost,
    /// The answer is an error; the effect comes when the client is a few calls further.
    Late,
    /// No effect; the answer is 409, which object_store calls "already exists".
    FalseConflict,
    /// It has its effect; the answer is 409 or "already exists", as after a repeat below us.
    AnswerTwice,
    /// No effect; the answer is 412.
    FalsePrecondition,
    /// It has its effect; the answer is 412.
    PreconditionTwice,
    /// The first half of the body, then its end, as if that were all.
    BodyCut,
    /// The first half of the body, then an error.
    BodyBroken,
    /// The body in small pieces with pauses.
    BodySlow,
    /// The listing of a while ago: without the objects that were written since.
    StaleList,
}

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Create,
    Overwrite,
    BeginUpload,
    Part,
    Complete,
    Get,
    GetRange,
    Head,
    List,
    Delete,
}

impl Call {
    /// The faults that can befall it.
    pub(crate) fn faults(self) -> &'static [Fault] {
        use Fault::*;
        match self {
            Call::Create | Call::Overwrite => {
                &[RequestLost, AnswerLost, Late, FalseConflict, AnswerTwice, FalsePrecondition, PreconditionTwice]
            }
            Call::BeginUpload | Call::Part | Call::Complete | Call::Delete => {
                &[RequestLost, AnswerLost, FalseConflict, AnswerTwice]
            }
            Call::Get => &[RequestLost, BodyCut, BodyBroken, BodySlow],
            // Readers of Parquet trust a range to be whole or an error, as every HTTP client makes it.
            Call::GetRange => &[RequestLost, BodyBroken, BodySlow],
            Call::Head => &[RequestLost],
            Call::List => &[RequestLost, StaleList],
        }
    }
}

/// How many calls later the effect of a [`Fault::Late`] comes.
const LATE_CALLS: usize = 3;

#[derive(Debug)]
pub(crate) struct FaultyStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: Vec<(Call, Path)>,
    strike: Option<(usize, Fault)>,
    /// For the next puts of version files, in order.
    versions: VecDeque<Option<Fault>>,
    /// Puts whose path contains this fail.
    refused: Option<String>,
    /// Nothing is answered, not even with an error.
    silent: bool,
    late: Vec<(usize, BoxFuture<'static, ()>)>,
    /// Objects that a stale listing knows.
    listed_before: Vec<Path>,
}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} calls", self.calls.len())
    }
}

impl FaultyStore {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Arc<FaultyStore> {
        Arc::new(FaultyStore(Arc::new(Inner { store, state: Mutex::default() })))
    }

    /// The n-th call, from 0, meets `fault`, if it is one that it can meet.
    pub(crate) fn strike(&self, call: usize, fault: Fault) {
        self.0.state().strike = Some((call, fault));
    }

    /// What was called so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.0.state().calls.iter().map(|(call, _)| *call).collect()
    }

    /// Where the n-th call went.
    pub(crate) fn path(&self, call: usize) -> Path {
        self.0.state().calls[call].1.clone()
    }

    /// The next puts of version files meet these.
    pub(crate) fn plan(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.0.state().versions.extend(faults);
    }

    pub(crate) fn refuse(&self, path_part: Option<&str>) {
        self.0.state().refused = path_part.map(str::to_owned);
    }

    /// From now on nothing is answered, or again all.
    pub(crate) fn silence(&self, silent: bool) {
        self.0.state().silent = silent;
    }

    /// Effects that are still to come, come.
    pub(crate) async fn settle(&self) {
        let late = std::mem::take(&mut self.0.state().late);
        for (_, effect) in late {
            effect.await;
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Counts a call, and gives the fault that it meets.
    async fn called(&self, call: Call, location: Option<&Path>) -> Option<Fault> {
        if self.state().silent {
            return std::future::pending().await;
        }
        let (number, due) = {
            let mut state = self.state();
            let number = state.calls.len();
            state.calls.push((call, location.cloned().unwrap_or_default()));
            let (due, waiting) = std::mem::take(&mut state.late).into_iter().partition(|(at, _)| *at <= number);
            state.late = waiting;
            (number, due)
        };
        let due: Vec<(usize, BoxFuture<'static, ()>)> = due;
        for (_, effect) in due {
            effect.await;
        }
        let mut state = self.state();
        let is_version = location.and_then(Path::filename).is_some_and(|name| name.ends_with(".metadata.json"));
        if is_version && matches!(call, Call::Create | Call::Overwrite) && !state.versions.is_empty() {
            return state.versions.pop_front().flatten();
        }
        state.strike.filter(|(at, fault)| *at == number && call.faults().contains(fault)).map(|(_, fault)| fault)
    }

    /// A call with an effect, under a fault.
    async fn under<T>(&self, fault: Option<Fault>, path: &Path, effect: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = |fault| match fault {
            Fault::FalseConflict | Fault::AnswerTwice => {
                Error::AlreadyExists { path: path.to_string(), source: "409".into() }
            }
            Fault::FalsePrecondition | Fault::PreconditionTwice => {
                Error::Precondition { path: path.to_string(), source: "412".into() }
            }
            _ => lost(),
        };
        match fault {
            Some(fault @ (Fault::AnswerLost | Fault::AnswerTwice | Fault::PreconditionTwice)) => {
                Err(effect.await.err().unwrap_or_else(|| answer(fault)))
            }
            Some(fault @ (Fault::RequestLost | Fault::FalseConflict | Fault::FalsePrecondition)) => Err(answer(fault)),
            _ => effect.await,
        }
    }
}

fn lost() -> Error {
    Error::Generic { store: "faulty", source: "connection reset".into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.0.state().refused.as_ref().is_some_and(|part| location.as_ref().contains(part)) {
            return Err(lost());
        }
        let call = if matches!(options.mode, PutMode::Create) { Call::Create } else { Call::Overwrite };
        let fault = self.0.called(call, Some(location)).await;
        if fault == Some(Fault::Late) {
            let (store, location) = (self.0.store.clone(), location.clone());
            // A create that comes late finds its name taken or takes it; nobody waits for the answer.
            let effect = async move { drop(store.put_opts(&location, payload, options).await) };
            let mut state = self.0.state();
            let due = state.calls.len() + LATE_CALLS;
            state.late.push((due, Box::pin(effect)));
            return Err(lost());
        }
        self.0.under(fault, location, self.0.store.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.0.called(Call::BeginUpload, Some(location)).await;
        let upload = self.0.under(fault, location, self.0.store.put_multipart_opts(location, options)).await?;
        Ok(Box::new(FaultyUpload { store: self.0.clone(), location: location.clone(), upload }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let call = match (&options.range, options.head) {
            (_, true) => Call::Head,
            (Some(_), false) => Call::GetRange,
            (None, false) => Call::Get,
        };
        let fault = self.0.called(call, Some(location)).await;
        let mut got = self.0.under(fault, location, self.0.store.get_opts(location, options)).await?;
        let (Some(fault @ (Fault::BodyCut | Fault::BodyBroken | Fault::BodySlow)), false) = (fault, call == Call::Head)
        else {
            return Ok(got);
        };
        let (range, meta, attributes) = (got.range.clone(), got.meta.clone(), std::mem::take(&mut got.attributes));
        let body = got.bytes().await?;
        let half = body.slice(..body.len() / 2);
        let pieces: Vec<Result<Bytes>> = match fault {
            Fault::BodyCut => vec![Ok(half)],
            Fault::BodyBroken => vec![Ok(half), Err(lost())],
            _ => vec![Ok(half), Ok(body.slice(body.len() / 2..))],
        };
        let slowly = stream::iter(pieces).then(move |piece| async move {
            if fault == Fault::BodySlow {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            piece
        });
        Ok(GetResult { payload: GetResultPayload::Stream(slowly.boxed()), meta, range, attributes })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = self.0.clone();
        let delete = move |location: Result<Path>| {
            let inner = inner.clone();
            async move {
                let location = location?;
                let fault = inner.called(Call::Delete, Some(&location)).await;
                let one = stream::once(std::future::ready(Ok(location.clone()))).boxed();
                let mut deleted = inner.store.delete_stream(one);
                let effect = async { deleted.next().await.unwrap_or_else(|| Err(lost())) };
                inner.under(fault, &location, effect).await
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, prefix) = (self.0.clone(), prefix.cloned());
        let listed = async move {
            let fault = inner.called(Call::List, prefix.as_ref()).await;
            if fault == Some(Fault::RequestLost) {
                return vec![Err(lost())];
            }
            let found: Vec<Result<ObjectMeta>> = inner.store.list(prefix.as_ref()).collect().await;
            let mut state = inner.state();
            let known = std::mem::take(&mut state.listed_before);
            state.listed_before = found.iter().flatten().map(|object| object.location.clone()).collect();
            let is_known = |object: &ObjectMeta| fault.is_none() || known.contains(&object.location);
            found.into_iter().filter(|object| object.as_ref().map_or(true, is_known)).collect()
        };
        stream::once(listed).map(stream::iter).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.store.copy_opts(from, to, options).await
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FaultyStore({})", self.0.store)
    }
}

#[derive(Debug)]
struct FaultyUpload {
    store: Arc<Inner>,
    location: Path,
    upload: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (store, location) = (self.store.clone(), self.location.clone());
        let part = self.upload.put_part(payload);
        Box::pin(async move {
            let fault = store.called(Call::Part, Some(&location)).await;
            store.under(fault, &location, part).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.store.called(Call::Complete, Some(&self.location)).await;
        self.store.under(fault, &self.location, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
