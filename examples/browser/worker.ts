// The Worker: all of the library runs here, and the page stays responsive.

import { serve } from "octavo/browser/worker";

serve();
