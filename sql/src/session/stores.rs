//! The one object store that plans can reach.

use std::sync::Arc;

use datafusion::common::{Result, plan_err};
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use url::Url;

/// No statement can name it: only our own scans make plans with store addresses.
pub(super) const WAREHOUSE: &str = "warehouse://lake/";

#[derive(Debug)]
pub(super) struct OnlyWarehouse(pub Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for OnlyWarehouse {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        if url.scheme() == "warehouse" && url.host_str() == Some("lake") {
            return Ok(self.0.clone());
        }
        plan_err!("{url} cannot be reached from SQL")
    }
}
