//! Errors as HTTP answers.
use crate::error::{Error, Kind};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// An error on its way to a caller.
#[derive(Debug)]
pub struct Failure(pub Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0.body())).into_response()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self(Error::general(
            Kind::Invalid,
            format!("the request's body is not understood: {}", rejection.body_text()),
        ))
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self(Error::general(
            Kind::Invalid,
            format!("the request's query is not understood: {}", rejection.body_text()),
        ))
    }
}

/// What a path that does not exist answers.
pub async fn not_found(uri: axum::http::Uri) -> Failure {
    Failure(
        Error::new(Kind::NotFound, uri.path(), format!("there is no {}", uri.path()))
            .hint("see /v1/openapi.json"),
    )
}
