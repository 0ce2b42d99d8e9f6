//! Sees the status of answers that object_store turns into an error without its parts.
//!
//! object_store hides status and headers of a failed request in a private type. A connector around
//! its own notes them for the task that sent the request.

use std::cell::RefCell;
use std::future::Future;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use crate::failure::{Failure, StatusAnswer};
use crate::http::{http_failure, with_sources};
use crate::s3::retry_after;

tokio::task_local! {
    static SEEN: RefCell<Option<StatusAnswer>>;
}

/// object_store's connector, observed.
#[derive(Debug)]
pub(crate) struct ObservingConnector;

impl HttpConnector for ObservingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Observer(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Observer(HttpClient);

#[async_trait]
impl HttpService for Observer {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.execute(request).await?;
        if !response.status().is_success() {
            let code = response.headers().get("x-ms-error-code");
            let answer = StatusAnswer {
                status: response.status().as_u16(),
                code: code.and_then(|code| code.to_str().ok()).unwrap_or_default().to_owned(),
                retry_after: retry_after(response.headers()),
                ..StatusAnswer::default()
            };
            // Requests of other tasks, such as renewing a token in the background, are not noted.
            let _ = SEEN.try_with(|seen| seen.replace(Some(answer)));
        }
        Ok(response)
    }
}

/// Runs one request of object_store and says why it failed.
pub(crate) async fn observed<T>(
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Failure> {
    SEEN.scope(RefCell::new(None), async {
        match request.await {
            Ok(value) => Ok(value),
            Err(error) => Err(failure_of(&error, SEEN.with(RefCell::take))),
        }
    })
    .await
}

/// What an error of object_store means, given the last answer that was no success.
fn failure_of(error: &object_store::Error, seen: Option<StatusAnswer>) -> Failure {
    let text = with_sources(error);
    if let Some(mut answer) = seen {
        if answer.code.is_empty() {
            let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
            answer.code = code.map(|(code, _)| code.to_owned()).unwrap_or_default();
        }
        return Failure::Status(answer);
    }
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return http_failure(error);
        }
        source = error.source();
    }
    match error {
        object_store::Error::NotFound { .. } => Failure::Absent(text),
        object_store::Error::Precondition { .. } => Failure::Changed(text),
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Failure::Denied(text),
        // The enum is open; what is left are requests that were never sent.
        _ => Failure::Malformed(text),
    }
}
