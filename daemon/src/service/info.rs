//! `DaemonService`.

use cedana_api::time::{from_micros, now_micros};
use cedana_api::v1;
use tonic::{Request, Response, Status};

use crate::listen::auth::caller;

/// Says what the daemon is.
pub(crate) struct InfoService {
    started: i64,
}

impl InfoService {
    pub(crate) fn new() -> Self {
        Self {
            started: now_micros(),
        }
    }
}

#[tonic::async_trait]
impl v1::daemon_service_server::DaemonService for InfoService {
    async fn get_info(
        &self,
        request: Request<v1::GetInfoRequest>,
    ) -> Result<Response<v1::GetInfoResponse>, Status> {
        Ok(Response::new(v1::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: Some(from_micros(self.started)),
            caller_uid: caller(&request)?.uid(),
        }))
    }
}
