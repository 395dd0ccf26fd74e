#include "kws.h"

int main(void)
{
    return kws_selftest();
}
