#ifndef RT_CONFIG_H__
#define RT_CONFIG_H__
#define RT_USING_NN
#endif
