use std::rc::Rc;

use mx_job_webhook::JobRouter;

fn main() {
    let _ = JobRouter::new().on_completed(|event| async move {
        let guid = Rc::new(event.guid.clone());
        std::future::ready(()).await;
        drop(guid);
    });
}
